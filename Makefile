# Needs Python 3.11+, make and git; everything else comes through `bootstrap`. `make help` lists the targets.
PYTHON ?= python3
# Test files to run at once; 0 runs all in one process.
FILES_AT_ONCE ?= 2
RUN := .venv/bin/python
SOURCES := sdavs_model platform serve jobs tests infra
LOCK := .tools/uv/bin/uv pip compile pyproject.toml --universal --generate-hashes --no-emit-index-url --no-header \
  --no-annotate -p 3.11 -q

# No usage reports from Ray and MLflow; Ray must not hide the GPUs from processes that reserve none.
export RAY_USAGE_STATS_ENABLED ?= 0
export MLFLOW_DISABLE_TELEMETRY ?= true
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO ?= 0
# OpenMP's waiting threads would spin, and starve other processes on two cores.
export OMP_WAIT_POLICY ?= PASSIVE
# Without cached bytecode each of the demo's many processes would compile torch, ray and mlflow again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help gpu-check demo try ablation-demo test test-fast multinode-test check format infra infra-check services stop clean distclean lock bootstrap

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' Makefile

bootstrap: ## Install uv and the locked environment; nothing to do when they are current
	@$(PYTHON) infra/local/bootstrap.py

demo: bootstrap ## Train, register, promote, evaluate, serve and send a request (RETRAIN=1, FROM_SCRATCH=1, MODEL=ddeseg)
	@$(RUN) jobs/demo.py $(if $(RETRAIN),--retrain) $(if $(FROM_SCRATCH),--from-scratch) $(if $(MODEL),--model $(MODEL))

try: bootstrap ## Serve the included trained model with its web page: no data, no training
	@$(RUN) jobs/try.py

ablation-demo: bootstrap ## Full model, without SNRP and without DAMF, two seeds each; ends in a report
	@$(RUN) jobs/tune.py --sweep jobs/configs/sweeps/ablation_demo.yaml --cluster.address local --open

test: bootstrap ## Run the test suite (ARGS="-k audio" is handed to pytest)
	@$(RUN) -m pytest -n $(FILES_AT_ONCE) --dist loadfile --no-loadscope-reorder $(ARGS)

test-fast: bootstrap ## Run the tests that need no cluster, server or browser
	@$(RUN) -m pytest -n $(FILES_AT_ONCE) --dist loadfile --no-loadscope-reorder \
	  -m "not (cluster or server or browser or slow)" $(ARGS)

multinode-test: bootstrap ## Train on two machines in network namespaces, cut their link and heal it (needs root)
	@$(RUN) infra/local/multinode.py

check: bootstrap ## Linter, formatter, type checker, keys of jobs/configs
	$(RUN) -m ruff check $(SOURCES)
	$(RUN) -m ruff format --check $(SOURCES)
	$(RUN) -m mypy
	$(RUN) infra/local/check_configs.py

format: bootstrap ## Apply the formatter and the linter's fixes
	$(RUN) -m ruff check --fix $(SOURCES)
	$(RUN) -m ruff format $(SOURCES)

infra: bootstrap ## Rewrite what is generated under infra/: Serve configs, alert rules for Kubernetes, dashboards
	@$(RUN) infra/kuberay/generate.py

infra-check: bootstrap ## Check infra/ with kubectl, terraform, promtool and linters, without a cluster (STRICT=1: all of it)
	@$(RUN) infra/check/check.py $(if $(STRICT),--strict)

gpu-check: bootstrap ## Check numbers, speed, training and DeepSpeed on one CUDA GPU, in under 8 minutes (ARGS="--out FOLDER")
	@$(RUN) infra/check/gpu.py $(ARGS)

services: bootstrap ## Start MLflow on Postgres with artifacts on an S3 server; prints what to export
	@$(RUN) jobs/services.py

stop: ## Stop what `make demo` and `make services` started
	@if [ -x $(RUN) ]; then $(RUN) jobs/demo.py --stop; else echo "nothing was started"; fi

clean: stop ## Stop, then remove data, results, models, logs and caches (keeps the environment)
	rm -rf .sdavs build .pytest_cache .ruff_cache .mypy_cache
	find $(SOURCES) -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## Also remove the environment
	rm -rf .venv .tools sdavs.egg-info

lock: bootstrap ## Resolve pyproject.toml into requirements.lock, and the part that the image needs
	$(LOCK) --extra server --extra dev -o requirements.lock
	$(LOCK) --extra server -c requirements.lock -o infra/docker/requirements.lock
