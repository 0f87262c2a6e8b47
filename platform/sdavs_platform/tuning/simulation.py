"""Simulated sweeps: the driver is the real one, only the trainings are made up.

Used to measure what the driver itself costs, and by tests that kill and stop sweeps within seconds.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ray import tune
from rich.console import Console

from sdavs_platform.config.tree import RunConfig
from sdavs_platform.tuning.driver import run_trials
from sdavs_platform.tuning.live_table import LiveTable
from sdavs_platform.tuning.recorder import TrialRecorder
from sdavs_platform.tuning.search import trial_queue
from sdavs_platform.tuning.store import ENDED, SweepStore
from sdavs_platform.tuning.sweep import SweepConfig, load_sweep

EPOCHS = 3


@dataclass(frozen=True, kw_only=True)
class DriverCost:
    """Time and memory that the driver took for a whole sweep."""

    num_trials: int
    seconds: float
    cpu_seconds: float
    """CPU time of the driver's process, all threads."""
    memory_mb: float
    """Growth of the driver's resident memory."""


def made_up_trial(
    values: dict[str, Any], *, epochs: int, epoch_seconds: float, before: Callable[[str], None]
) -> None:
    """Report what a training would: J rises, and gets higher with a good learning rate.

    Args:
        before: called with the trial's name first; a test may die there.
    """
    trial = tune.get_context().get_trial_name()
    before(trial)
    values = {key: value for key, value in values.items() if key != "trial"}
    level = 0.5 - 0.1 * abs(math.log10(values["optimizer.lr"]) + 3)
    started = time.monotonic()
    for epoch in range(1, epochs + 1):
        time.sleep(epoch_seconds)
        report = {
            "epoch": epoch,
            "seconds": time.monotonic() - started,
            "val_miou": level * (1 - 0.5**epoch),
            "val_fscore": level * (1 - 0.5**epoch),
            "latency_ms": 10.0,
            "gmacs": 1.0,
            "parameters_m": 1.0,
            "values": values,
            "run_name": trial,
            "run_id": None,
            "finished": epoch == epochs,
        }
        end = {"scores": {}, "assets": {}, "best_checkpoint": f"none/{trial}", "data_digest": "made up"}
        tune.report(report | (end if epoch == epochs else {}))


def nothing(trial: str) -> None:
    """Default for `before`."""


def made_up_sweep(**changes: Any) -> SweepConfig:
    """A random search over the learning rate."""
    space = {"optimizer.lr": {"loguniform": [1e-4, 1e-2]}}
    return load_sweep(None, {"name": "made-up", "space": space} | changes)


def run_made_up(
    sweep: SweepConfig,
    storage: str | Path,
    *,
    max_concurrent: int,
    epochs: int = EPOCHS,
    epoch_seconds: float = 0.0,
    before: Callable[[str], None] = nothing,
    reuses_processes: bool = False,
    console: Console | None = None,
) -> SweepStore:
    """Run, or continue, a made-up sweep on the Ray cluster that this process has joined."""
    store = SweepStore(str(storage), sweep.name)
    store.write_definition(
        {
            "sweep": sweep.model_dump(mode="json"),
            "config": RunConfig().model_dump(mode="json"),
            "command": ["python", "jobs/benchmark.py", "sweep"],
            "data_digest": "made up",
            "git_commit": "none",
        }
    )
    records = store.trials()
    queue = trial_queue(sweep, RunConfig(), study=None, records=records)
    with LiveTable(
        name=sweep.name, num_trials=sweep.num_trials, objective=sweep.objectives[0], console=console
    ) as table:
        recorder = TrialRecorder(
            store=store,
            table=table,
            queue=queue,
            tracking_uri=None,
            earlier=[record for record in records if record.state not in ENDED],
        )
        trainable = tune.with_parameters(
            made_up_trial, epochs=epochs, epoch_seconds=epoch_seconds, before=before
        )
        try:
            run_trials(
                queue,
                trainable,
                sweep=sweep,
                store=store,
                recorder=recorder,
                epochs=epochs,
                max_concurrent=max_concurrent,
                ended=[record for record in records if record.state in ENDED],
                reuses_processes=reuses_processes,
            )
        finally:
            recorder.interrupt()
    return store


def measure_driver(num_trials: int, storage: str | Path, *, max_concurrent: int) -> DriverCost:
    """Run a sweep of made-up trials and measure its cost; this process should be a new one."""
    process = psutil.Process(os.getpid())
    memory, cpu, started = process.memory_info().rss, time.process_time(), time.monotonic()
    sweep = made_up_sweep(name=f"made-up-{num_trials}", num_trials=num_trials)
    # Starting a process costs the machine seconds, but not the driver.
    run_made_up(
        sweep, storage, max_concurrent=max_concurrent, reuses_processes=True, console=Console(quiet=True)
    )
    return DriverCost(
        num_trials=num_trials,
        seconds=time.monotonic() - started,
        cpu_seconds=time.process_time() - cpu,
        memory_mb=(process.memory_info().rss - memory) / 1e6,
    )
