"""Trainings whose second worker kills itself at a given moment.

A process that watches a training from outside, to kill a worker at the right moment, comes too late on a slow machine.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from sdavs_platform.training import run

DEATHS = "deaths"
"""In the training's folder: how many workers have died."""

# The functions for workers are nested, so that Ray sends their code: workers do not import modules of tests.


def die_while_writing(patch: pytest.MonkeyPatch, *, number: int) -> None:
    """Trainings lose a worker by SIGKILL while it writes its part of the checkpoint of that number, counted from 1.

    All checkpoints before it are listed then. Only trainings that start without checkpoints.
    """

    def train(settings: dict[str, Any]) -> None:
        from sdavs_platform.training.checkpoints import checkpoint
        from sdavs_platform.training.checkpoints.listing import await_checkpoint, own_checkpoints
        from sdavs_platform.training.loop import train_worker

        write, num_written = checkpoint.write_manifest, 0

        def write_or_die(folder: Path, *, rank: int, world_size: int) -> None:
            nonlocal num_written
            num_written += 1
            if rank == 1 and num_written == number:
                await_checkpoint()
                os.kill(os.getpid(), signal.SIGKILL)
            write(folder, rank=rank, world_size=world_size)

        if not own_checkpoints():
            checkpoint.write_manifest = write_or_die
        train_worker(settings)

    patch.setattr(run, "train_on_worker", train)


def die_while_uploading(patch: pytest.MonkeyPatch, *, number: int) -> None:
    """Trainings lose a worker by SIGKILL after the first worker's part of that checkpoint, counted from 1, has arrived.

    All checkpoints before it are listed then, and the file `DEATHS` counts. For storage that is a folder. Only
    trainings that start without checkpoints.
    """

    def train(settings: dict[str, Any]) -> None:
        import ray.train
        from sdavs_platform.training.checkpoints.listing import await_checkpoint, own_checkpoints
        from sdavs_platform.training.loop import train_worker

        report, num_reported = ray.train.report, 0
        storage = Path(settings["config"]["storage"]["uri"], settings["config"]["name"])

        def die(checkpoint: Any, folder: str) -> Any:
            while not (storage / folder / "manifest-rank0.json").exists():
                time.sleep(0.01)
            deaths = storage / DEATHS
            deaths.write_text(str(1 + int(deaths.read_text() if deaths.exists() else 0)))
            os.kill(os.getpid(), signal.SIGKILL)

        def report_or_die(metrics: dict[str, Any], **options: Any) -> None:
            nonlocal num_reported
            num_reported += 1
            is_last = num_reported == number and ray.train.get_context().get_world_rank() == 1
            if is_last:
                await_checkpoint()
            report(metrics, **options, **({"checkpoint_upload_fn": die} if is_last else {}))

        if not own_checkpoints():
            ray.train.report = report_or_die
        train_worker(settings)

    patch.setattr(run, "train_on_worker", train)
