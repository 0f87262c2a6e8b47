"""A trace of a few training steps by every worker, for chrome://tracing or ui.perfetto.dev."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from sdavs_platform.config.tree import RunConfig
from sdavs_platform.storage.filesystem import Storage
from sdavs_platform.tracking.runs import TrainingRun

logger = logging.getLogger(__name__)

FOLDER = "profile"
"""Folder of the traces, below the run's folder in the storage and among its artifacts."""


class StepProfiler:
    """Records the steps that `training.profile` names; idle, and free, on all others.

    Recording slows the steps; their parts keep their proportions better than their lengths.

    Args:
        rank: this worker's number; it is in its trace's name.
    """

    def __init__(self, config: RunConfig, *, rank: int, uri: str, run_id: str) -> None:
        self._config = config
        self._rank = rank
        self._run = uri, run_id
        self._profile: torch.profiler.profile | None = None

    @contextlib.contextmanager
    def around(self, step: int) -> Iterator[None]:
        """Context manager around optimizer step `step`, from 1. The trace also has the loading between steps."""
        if self._config.training.profile is None:
            yield
            return
        first, last = self._config.training.profile
        if step == first:
            self._profile = torch.profiler.profile(record_shapes=True)
            self._profile.start()
        yield
        if step == last and self._profile:
            self._profile.stop()
            self._store(f"steps-{first}-{last}-rank{self._rank}.json.gz")
            self._profile = None

    def _store(self, name: str) -> None:
        """Write the traces to the training's folder in the storage, and to MLflow."""
        from mlflow.exceptions import MlflowException

        assert self._profile is not None
        storage = Storage(str(self._config.storage.uri), field="storage.uri")
        with tempfile.TemporaryDirectory(prefix="sdavs-profile-") as folder:
            trace = Path(folder) / name
            self._profile.export_chrome_trace(str(trace))
            storage.write(f"{self._config.name}/{FOLDER}/{name}", trace.read_bytes())
            uri, run_id = self._run
            try:
                TrainingRun(uri=uri, run_id=run_id).client.log_artifact(run_id, str(trace), FOLDER)
            except MlflowException as error:
                # Points wait for a server that is away; a trace is in the storage already.
                logger.warning("%s: could not log %s to MLflow: %s", self._config.name, name, error)
