"""Writes checkpoints and reports them to Ray Train, which uploads them to the storage and retries failed uploads."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import ray.train
import torch
import torch.distributed as dist

from sdavs_platform.training.checkpoints.checkpoint import (
    LoopState,
    Probe,
    UnsentMetrics,
    save_checkpoint,
    scratch_folder,
)


class CheckpointTimer(Protocol):
    """Counts the time for which writing a checkpoint holds up the training."""

    def checkpoint(self) -> AbstractContextManager[None]:
        """Context manager around the writing of a checkpoint."""


class CheckpointReporter:
    """Writes this worker's part of a checkpoint and hands it to Ray Train.

    Args:
        times: counts the time that writing takes.
        beat: called while waiting for the previous upload, so that the wait does not count as a hang.
    """

    def __init__(
        self, engine: Any, *, rank: int, run_id: str, times: CheckpointTimer, beat: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._rank = rank
        self._run_id = run_id
        self._times = times
        self._beat = beat
        self._uploading: Path | None = None

    def report(
        self,
        state: LoopState,
        *,
        scores: dict[str, float],
        probe: Probe,
        unsent: UnsentMetrics,
        averaged: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Report scores with a checkpoint; all workers call it together, and Ray Train merges their folders.

        Training continues during the upload. A checkpoint counts once all workers' parts have arrived.
        """
        # One upload at a time, or slow storage would fill the disk here.
        while self._uploading and self._uploading.exists():
            self._beat()
            time.sleep(0.1)
        self._uploading = scratch_folder(self._run_id)
        with self._times.checkpoint():
            save_checkpoint(
                self._uploading,
                engine=self._engine,
                state=state,
                unsent=unsent,
                probe=probe,
                rank=self._rank,
                averaged=averaged,
            )
            dist.barrier()
        metrics = {f"val_{name}": value for name, value in scores.items()}
        ray.train.report(
            metrics | {"epoch": state.epochs_begun, "step": state.step, "stopped": state.stopped},
            checkpoint=ray.train.Checkpoint.from_directory(self._uploading),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
        )
