"""MLflow runs: one per training, found again by the training's name after a restart.

All calls go through `MlflowClient` with a run id, because driver and workers write to the same run. MLflow is imported
where it is called: `tracking.client` says why.
"""

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from PIL.Image import Image

from sdavs_model.config import RENAMED_KEYS
from sdavs_platform.config.cli import validated
from sdavs_platform.config.paths import CHECKOUT
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.tracking.client import (
    experiment_id,
    log_or_warn,
    mlflow_client,
    require_mlflow,
    runs_tagged,
    tracking_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

Point = tuple[int, dict[str, float]]
"""Optimizer step, and values by metric."""

NAME_TAG = "sdavs.name"
STORAGE_TAG = "sdavs.storage"
SWEEP_TAG = "sdavs.sweep"
HOST_TAG = "sdavs.host"
"""Name of the machine that the driver runs on."""
PROCESS_TAG = "sdavs.process"
"""IP address and process id of the driver, as Ray lists drivers."""
RESULT_FILE = "result.json"

# Keys that may change when a training is resumed; any other change makes it another training.
RESUMABLE = (
    "tracking.",
    "storage.",
    "cluster.",
    "serve.",
    "start.",
    "data.root",
    "data.num_workers",
    "data.test_splits",
    "training.max_minutes",
    "training.patience",
    "training.keep_checkpoints",
    "training.checkpoint_every",
    "training.hang_seconds",
    "training.max_skipped",
    "training.spike_factor",
    "training.consolidation_tolerance",
    "training.log_every",
    "training.profile",
)

_FILE_KEYS = ("model.backbone_weights", "model.audio_weights", "model.bank")
"""Files whose folder may differ on a resume, as that of another machine does."""

_RENAMED_KEYS = {f"model.{old}": f"model.{new}" for old, new in RENAMED_KEYS.items()}


class TrainingRun:
    """A run by its id; all methods can be called from any process."""

    def __init__(self, *, uri: str, run_id: str) -> None:
        self.uri = uri
        self.run_id = run_id
        self.client: MlflowClient = mlflow_client(uri)

    @classmethod
    def open(cls, config: RunConfig, *, uri: str, storage: str, has_checkpoints: bool) -> "TrainingRun":
        """The run of `config.name`: the existing one if this training continues it, else a new one.

        Raises:
            ValueError: checkpoints of this name exist that were trained with another config (names the keys); the
                experiment is deleted; or MLflow does not respond.
        """
        require_mlflow(uri)
        client = mlflow_client(uri)
        experiment = experiment_id(client, config.tracking.experiment)
        found = runs_tagged(client, [experiment], {NAME_TAG: config.name, STORAGE_TAG: storage})
        params = flattened(config)
        if found:
            if has_checkpoints:
                require_same_config(config, found[0].data.params)
            changed = changed_keys(config, found[0].data.params)
            finished = found[0].info.status == "FINISHED"
            if not changed and (has_checkpoints or not finished):
                run = cls(uri=uri, run_id=found[0].info.run_id)
                run._reopen(config, found[0].data.params)
                return run
        tags = {NAME_TAG: config.name, STORAGE_TAG: storage, "git_commit": git_commit()}
        created = client.create_run(experiment, run_name=config.name, tags=tags)
        run = cls(uri=uri, run_id=created.info.run_id)
        run._log_config(config, params)
        return run

    @classmethod
    def find(cls, name: str, *, storage: str, uri: str) -> "TrainingRun | None":
        """The newest run of a training by its name, in any experiment.

        Raises:
            ValueError: MLflow does not respond.
        """
        require_mlflow(uri)
        client = mlflow_client(uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found = runs_tagged(client, experiments, {NAME_TAG: name, STORAGE_TAG: storage})
        return cls(uri=uri, run_id=found[0].info.run_id) if found else None

    def recorded_config(self) -> RunConfig:
        """The training's config as this run keeps it."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(self.client.download_artifacts(self.run_id, "config.yaml", folder))
            return validated(yaml.safe_load(file.read_text()))

    def set_data_digest(self, digest: str, *, has_checkpoints: bool) -> None:
        """Record the data of this training.

        Raises:
            ValueError: its checkpoints were trained on other data.
        """
        before = self.client.get_run(self.run_id).data.tags.get("data_digest", digest)
        if has_checkpoints:
            require_same_data(digest, before)
        self.set_tags({"data_digest": digest})

    def record_process(self, node_address: str) -> None:
        """Record that this process is the driver, so that it can be found and stopped.

        Args:
            node_address: IP address of this machine in the Ray cluster.
        """
        self.set_tags({HOST_TAG: socket.gethostname(), PROCESS_TAG: f"{node_address}:{os.getpid()}"})

    def log_dataset(self, root: str, *, digest: str) -> None:
        """Show the data set among the inputs of the run; logging it again changes nothing.

        Args:
            digest: sha256 of its content; MLflow takes the first 36 characters, the tag `data_digest` holds all.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        kind = root.partition("://")[0] if "://" in root else "local"
        dataset = Dataset(
            name=root.rstrip("/").rpartition("/")[2][:500],
            digest=digest[:36],
            source_type=kind,
            source=json.dumps({"uri": root}),
        )
        context = InputTag(key="mlflow.data.context", value="training")
        self.client.log_inputs(self.run_id, [DatasetInput(dataset=dataset, tags=[context])])

    def log_metrics(self, values: dict[str, float], *, step: int) -> None:
        """Log one point of several metrics; `step` counts optimizer steps."""
        self.log_points([(step, values)])

    def log_points(self, points: list[Point]) -> None:
        """Log the points of several steps in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(k, float(v), now, step) for step, values in points for k, v in values.items()]
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + 1000])

    def history(self, key: str) -> list[tuple[int, float]]:
        """All points of one metric as (step, value), in order."""
        points = self.client.get_metric_history(self.run_id, key)
        return sorted({point.step: point.value for point in points}.items())

    def set_tags(self, tags: dict[str, str]) -> None:
        """Add or replace tags."""
        from mlflow.entities import RunTag

        self.client.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def log_figure(self, figure: Any, file: str) -> None:
        """Log a matplotlib figure as PNG; replaces an earlier `file`."""
        self.client.log_figure(self.run_id, figure, file)

    def log_image(self, image: Image, file: str) -> None:
        """Log an image as PNG; replaces an earlier `file`."""
        self.client.log_image(self.run_id, image, file)

    def set_finished_result(
        self, *, checkpoint: str, version: int | None, metrics: dict[str, dict[str, float]]
    ) -> None:
        """Record the result of the training, so that the same command repeats nothing."""
        result = {"checkpoint": checkpoint, "version": version, "metrics": metrics}
        self.client.log_dict(self.run_id, result, RESULT_FILE)
        self.set_tags({"model_version": str(version)} if version is not None else {})

    def finished_result(self) -> dict[str, Any] | None:
        """The result recorded by `set_finished_result`; None if the training has not finished."""
        if RESULT_FILE not in {file.path for file in self.client.list_artifacts(self.run_id)}:
            return None
        with tempfile.TemporaryDirectory() as folder:
            return json.loads(
                Path(self.client.download_artifacts(self.run_id, RESULT_FILE, folder)).read_text()
            )

    def finish(self) -> None:
        """Mark the run FINISHED."""
        self.client.set_terminated(self.run_id, "FINISHED")

    def fail(self, message: str, *, status: str = "FAILED") -> None:
        """Mark the run FAILED (or KILLED), with the reason in the tag `error`."""
        self.set_tags({"error": message[:5000]})
        self.client.set_terminated(self.run_id, status)

    def _log_config(self, config: RunConfig, params: dict[str, str]) -> None:
        from mlflow.entities import Param

        self.client.log_batch(self.run_id, params=[Param(key, value) for key, value in params.items()])
        self.client.log_text(self.run_id, resolved_yaml(config), "config.yaml")

    def _reopen(self, config: RunConfig, old: dict[str, str]) -> None:
        """Continue the run. MLflow's params cannot change, so keys changed by a resume are logged as tags."""
        self.client.update_run(self.run_id, status="RUNNING")
        if "error" in self.client.get_run(self.run_id).data.tags:
            self.client.delete_tag(self.run_id, "error")
        changes = {f"resumed.{k}": v for k, v in flattened(config).items() if old.get(k) != v}
        self.set_tags(changes | {"git_commit": git_commit()})
        self.client.log_text(self.run_id, resolved_yaml(config), "config.yaml")


def changed_keys(config: RunConfig, before: Mapping[str, str]) -> list[str]:
    """The keys whose values differ from before (see `flattened`) and must not change on a resume."""
    params = flattened(config)
    return [
        key
        for key, old in before.items()
        if not _is_same(key, params.get(_RENAMED_KEYS.get(key, key)), old) and not key.startswith(RESUMABLE)
    ]


def _is_same(key: str, value: str | None, old: str) -> bool:
    if value is not None and _RENAMED_KEYS.get(key, key) in _FILE_KEYS:
        return Path(value).name == Path(old).name
    return value == old


def require_same_config(config: RunConfig, before: Mapping[str, str]) -> None:
    """Check that a training with checkpoints can be resumed with this config.

    Raises:
        ValueError: it was trained with another one; names the keys and their old values.
    """
    if changed := changed_keys(config, before):
        was = "; ".join(f"{key} was {before[key]}" for key in changed)
        raise ValueError(
            f"name: {config.name!r} was trained with another config ({was}); "
            f"choose another --name, or set these keys back to resume"
        )


def require_same_data(digest: str, before: str) -> None:
    """Check that a resumed training has the data of its checkpoints. Raises ValueError if it has not."""
    if digest != before:
        raise ValueError("data.root: not the data that this name was trained on; choose another --name")


def record_refusal(message: str, config: RunConfig | None = None) -> None:
    """Log a FAILED run for a command that was refused before it had a run; if that fails, only warn.

    Args:
        config: None if the config itself was refused; the run is then at the default address.
    """
    tracking = (config or RunConfig()).tracking
    uri = tracking_uri(tracking.uri)

    def log() -> None:
        client = mlflow_client(uri)
        created = client.create_run(experiment_id(client, tracking.experiment), run_name="refused")
        TrainingRun(uri=uri, run_id=created.info.run_id).fail(message)

    log_or_warn("the refusal", log, uri=uri)


def flattened(config: RunConfig) -> dict[str, str]:
    """Dotted key -> value as text, for MLflow's params."""
    flat: dict[str, str] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = str(value)

    visit("", config.model_dump(mode="json"))
    return flat


def resolved_yaml(config: RunConfig) -> str:
    """The whole config tree as YAML for `--config`."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def git_commit() -> str:
    """SDAVS_GIT_COMMIT, else the checkout's HEAD ("-dirty" with local changes), else "unknown"."""
    if commit := os.environ.get("SDAVS_GIT_COMMIT"):
        return commit
    if not (CHECKOUT / ".git").exists():
        return "unknown"
    try:
        head = _git("rev-parse", "HEAD")
        return f"{head}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else head
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(CHECKOUT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
