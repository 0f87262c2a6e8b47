"""Measures what Ray Train, DeepSpeed and this project's loop cost: a training step next to that of a bare PyTorch loop.

Both run in the same worker on the same batches, in turn, so that varying load of the machine affects both alike.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdavs_platform.cluster import joined_cluster, with_gpus_decided
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.tables import text_table
from sdavs_platform.tracking.runs import TrainingRun
from sdavs_platform.training.preflight import resolved

Report = dict[str, Any]

NUM_BATCHES = 2
"""Loaded once; loading is measured by `data_throughput`."""
WARM_UP = 2


def measure(config: RunConfig, *, num_rounds: int, num_steps: int) -> Report:
    """Train with one worker, in turn so many steps in the platform's loop and in a bare one.

    Args:
        config: model, data, batch size and optimizer; trains on one worker with a cluster, records and a storage of
            its own.
        num_rounds: pairs of timed blocks.
        num_steps: steps of a block; a log line is part of each.

    Returns:
        {"bare_step_s", "step_s": medians over the rounds, "ratio": median of bare / platform, 1 without any overhead,
        "ratios": of each round, "cpu_ratio": the same median of CPU time of all threads, which other programs hardly
        change, "batch_size"}.

    Raises:
        ValueError: as `resolved`.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    with tempfile.TemporaryDirectory(prefix="sdavs-overhead-") as folder:
        config = _alone(config, folder, log_every=num_steps)
        if config.cluster.use_gpu == "auto":
            with joined_cluster(config, prints_workers=False):
                config = with_gpus_decided(config)
        config = resolved(config)
        uri, storage = config.tracking.uri, config.storage.uri
        assert uri is not None
        assert storage is not None
        run = TrainingRun.open(config, uri=uri, storage=storage, has_checkpoints=False)
        settings: dict[str, Any] = {
            "config": config.model_dump(mode="json"),
            "tracking_uri": uri,
            "run_id": run.run_id,
            "start_from": None,
            "shared_files": {},
            "stop_key": "never",
            "num_rounds": num_rounds,
            "num_steps": num_steps,
            # On this machine, as the cluster is. Ray keeps what is reported only together with a checkpoint.
            "found": f"{folder}/found.json",
        }
        use_gpu = bool(config.cluster.use_gpu)
        resources = {"CPU": config.cluster.cpus_per_worker} | ({"GPU": 1} if use_gpu else {})
        with joined_cluster(config, prints_workers=False):
            trainer = TorchTrainer(
                compare_on_worker,
                train_loop_config=settings,
                scaling_config=ray.train.ScalingConfig(
                    num_workers=1, use_gpu=use_gpu, resources_per_worker=resources
                ),
                run_config=ray.train.RunConfig(name="overhead", storage_path=storage),
            )
            trainer.fit()
        run.finish()
        found = json.loads(Path(settings["found"]).read_text())
    wall, cpu = ([each[clock] for each in found["ours"]] for clock in ("wall_s", "cpu_s"))
    bare_wall, bare_cpu = ([each[clock] for each in found["bare"]] for clock in ("wall_s", "cpu_s"))
    ratios = [bare / ours for bare, ours in zip(bare_wall, wall, strict=True)]
    return {
        "bare_step_s": statistics.median(bare_wall),
        "step_s": statistics.median(wall),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "cpu_ratio": statistics.median(bare / ours for bare, ours in zip(bare_cpu, cpu, strict=True)),
        "batch_size": config.training.batch_size,
    }


def results_table(report: Report) -> str:
    """Milliseconds of a step, and how much of the bare loop's speed is left."""
    rows = [
        ["bare PyTorch loop", f"{1000 * report['bare_step_s']:.1f}"],
        ["Ray Train, DeepSpeed, this project's loop", f"{1000 * report['step_s']:.1f}"],
    ]
    low, high = min(report["ratios"]), max(report["ratios"])
    return (
        text_table([f"ms a step of {report['batch_size']} clips", ""], rows)
        + f"\n{report['ratio']:.1%} of the bare loop's speed, the median of {len(report['ratios'])} pairs "
        f"({low:.1%} to {high:.1%}); {report['cpu_ratio']:.1%} by CPU time"
    )


def compare_on_worker(settings: dict[str, Any]) -> None:
    """The worker's part; writes {"bare", "ours": {"wall_s", "cpu_s"} a step, one for each round} as JSON."""
    from sdavs_platform.training.loop import Worker

    worker = Worker(settings)
    batches = [
        batch for batch, _ in zip(worker.batches.epoch(0, first_batch=0), range(NUM_BATCHES), strict=False)
    ]
    if not batches:
        raise ValueError(
            f"training.batch_size: {len(worker.batches.clips)} clips in {worker.config.data.root} are too few "
            f"for a batch of {worker.config.training.batch_size}; choose fewer, or another --data"
        )
    worker.model.train()
    bare_step = _bare_step(worker.config, device=worker.engine.device)

    def our_step(batch: dict[str, Any]) -> None:
        for loaded in worker.times.loading([batch]):
            worker.losses.append(worker.train_step(loaded))
        if worker.state.step % worker.config.training.log_every == 0:
            worker.log_step()
        worker.notices.agreed()

    def seconds(step: Callable[[dict[str, Any]], None], num_steps: int) -> dict[str, float]:
        started, cpu_started = time.perf_counter(), time.process_time()
        for index in range(num_steps):
            step(batches[index % len(batches)])
        if worker.config.cluster.use_gpu:
            import torch

            torch.cuda.synchronize()
        wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
        return {"wall_s": wall_s / num_steps, "cpu_s": cpu_s / num_steps}

    num_steps = settings["num_steps"]
    for step in (bare_step, our_step):
        seconds(step, WARM_UP)
    found: dict[str, list[dict[str, float]]] = {"bare": [], "ours": []}
    for _ in range(settings["num_rounds"]):
        found["bare"].append(seconds(bare_step, num_steps))
        found["ours"].append(seconds(our_step, num_steps))
    worker.close()
    Path(settings["found"]).write_text(json.dumps(found))


def _bare_step(config: RunConfig, *, device: Any) -> Callable[[dict[str, Any]], None]:
    """A step of the same model, optimizer, schedule and clipping as anybody would write it in plain PyTorch."""
    import torch

    from sdavs_model import build_model
    from sdavs_model.precision import cast
    from sdavs_model.training_step import move, training_loss
    from sdavs_platform.training.engine import CastInputs, compute_dtype, parameter_groups

    model = build_model(config.model.without_weights()).train().to(device)
    dtype = compute_dtype(config)
    cast(model, dtype)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.optimizer),
        lr=config.optimizer.lr,
        betas=config.optimizer.betas,
        fused=True,
    )
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    weights = config.training.loss_weights.model_dump()
    forward = CastInputs(model, dtype)

    def step(batch: dict[str, Any]) -> None:
        present = {name: values for name, values in batch.items() if name != "present"}
        optimizer.zero_grad()
        training_loss(forward, move(present, device), weights=weights)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.optimizer.grad_clip)
        optimizer.step()

    return step


def _alone(config: RunConfig, folder: str, *, log_every: int) -> RunConfig:
    """The same training on one worker, with everything it writes in `folder`."""
    changes: dict[str, dict[str, Any]] = {
        "training": {"log_every": log_every, "epochs": 1000, "val_every": 1000},
        "cluster": {"address": "local", "num_workers": 1},
        "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"},
        "storage": {"uri": f"{folder}/results"},
    }
    sections = {name: getattr(config, name).model_copy(update=values) for name, values in changes.items()}
    return config.model_copy(update={"name": "overhead"} | sections)
