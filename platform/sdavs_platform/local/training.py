"""The demo's trainings: train once for each config and data set, and find the result again."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from sdavs_platform.config.cli import load_config
from sdavs_platform.config.paths import CHECKOUT
from sdavs_platform.local.commands import Commands, Listen
from sdavs_platform.tracking.client import mlflow_client

# Sections that affect neither the weights nor where they are registered.
_WITHOUT_EFFECT = {"name", "cluster", "storage", "serve"}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A registered result."""

    model: str
    version: int
    run_id: str
    val_miou: float
    is_new: bool
    """False if an earlier run of the demo trained it."""

    @property
    def uri(self) -> str:
        return f"models:/{self.model}/{self.version}"


class DemoTraining:
    """One of the demo's trainings; its run name carries a digest of its config and data.

    An interrupted training resumes, a finished one is found again, and a changed config starts a new one.
    """

    def __init__(self, *, configs: list[str], data_stamp: Path, mlflow_uri: str) -> None:
        """
        Args:
            configs: YAML files below the checkout; later ones win.
            data_stamp: file that identifies the content of the data set.
            mlflow_uri: MLflow server.

        Raises:
            ValueError: a config is wrong.
        """
        self._configs = configs
        config = load_config([CHECKOUT / path for path in configs])
        assert config.tracking.registered_model is not None
        self.model = config.tracking.registered_model
        content = json.dumps(config.model_dump(mode="json", exclude=_WITHOUT_EFFECT), sort_keys=True)
        digest = hashlib.sha256(content.encode() + data_stamp.read_bytes()).hexdigest()[:8]
        self._name = f"{config.name}-{digest}"
        self._client = mlflow_client(mlflow_uri)

    def run(self, commands: Commands, *, again: bool, on_line: Listen) -> Trained:
        """Train through `ray job submit`, unless that was done before.

        Args:
            again: train even then, as a new run.
            on_line: called with each line of the job's output.

        Raises:
            RuntimeError: the training failed, or registered nothing.
        """
        done = self._finished()
        if done and not again:
            return self._result(done[max(done)], is_new=False)
        attempt = max(done, default=0) + 1
        name = self._name if attempt == 1 else f"{self._name}-{attempt}"
        flags = [flag for path in self._configs for flag in ("--config", path)]
        commands.submit(
            self._name.split("-")[0] + f"-{self.model}",
            *("python", "jobs/train.py", *flags, "--name", name),
            on_line=on_line,
        )
        done = self._finished()
        if attempt not in done:
            raise RuntimeError(f"the training {name} ended without registering a version of {self.model}")
        return self._result(done[attempt], is_new=True)

    def _finished(self) -> dict[int, tuple[int, str, float]]:
        """Attempt -> (registered version, its run, validation J)."""
        found: dict[int, tuple[int, str, float]] = {}
        for version in self._client.search_model_versions(f"name = '{self.model}'"):
            match = re.fullmatch(rf"{re.escape(self._name)}(?:-(\d+))?", version.tags.get("training", ""))
            if match:
                assert version.run_id is not None  # `jobs/train.py` registers what a run has trained
                result = (int(version.version), version.run_id, float(version.tags["val_miou"]))
                attempt = int(match.group(1) or 1)
                found[attempt] = max(found.get(attempt, result), result)
        return found

    def _result(self, found: tuple[int, str, float], *, is_new: bool) -> Trained:
        version, run_id, val_miou = found
        return Trained(model=self.model, version=version, run_id=run_id, val_miou=val_miou, is_new=is_new)
