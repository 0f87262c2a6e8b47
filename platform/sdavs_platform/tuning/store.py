"""The files of a sweep on the storage: its definition, one record per trial, the report.

<storage>/sweeps/<name>/sweep.json          the definition, the config of all trials, the command
                        trials/<id>.json    one trial: values, state, every report, scores
                        training/           the trials' checkpoints, one training each
                        candidate.json      the registered version of the best trial
                        tune/               Ray Tune's own files; not read by this project
                        report/             report.html, report.md, trials.csv

A trial's file is rewritten at each of its reports, so a report can be built while the sweep runs, and a sweep can be
continued however it ended. Everything else about a sweep follows from these files.
"""

import json
import logging
import time
from typing import Any, Literal

from pydantic import BaseModel

from sdavs_model.analysis.sound_conditions import ORIGINAL
from sdavs_platform.storage.filesystem import Storage

logger = logging.getLogger(__name__)

State = Literal["pending", "running", "finished", "stopped", "failed", "interrupted"]

OUTAGE_S = 300.0
"""Our choice, as for trainings: how long a running sweep waits for its storage."""
_RETRY_S = 2.0

CANDIDATE_FILE = "candidate.json"
"""The version that the sweep registered."""

ENDED: tuple[State, ...] = ("finished", "stopped", "failed")
"""States in which a trial is not run again."""


class TrialRecord(BaseModel):
    """One trial."""

    id: str
    number: int
    """Index in the order of the sweep, from 0."""
    values: dict[str, Any]
    """Dotted key -> value, on top of the sweep's config."""
    variant: str | None = None
    """Recipe, in a study."""
    state: State = "pending"
    error: str | None = None
    """Why it failed or was stopped."""
    run_name: str | None = None
    """Name of its (latest) training."""
    run_id: str | None = None
    """MLflow run of its (latest) training."""
    checkpoint: str | None = None
    """URI of the best checkpoint so far."""
    data_digest: str | None = None
    seconds: float = 0.0
    """Wall-clock time, summed over restarts."""
    reports: list[dict[str, float]] = []
    """{"epoch", "seconds", "val_miou", "val_fscore"} at each validation; with "val_listening" where that selects."""
    cost: dict[str, float] = {}
    """{"latency_ms", "gmacs", "parameters_m"}."""
    scores: dict[str, dict[str, dict[str, list[float]]]] = {}
    """Condition of the sound -> test split -> {"miou", "fscore", "fpr"}: one value per clip, in the split's order.
    Records of earlier versions have no "fpr"."""
    assets: dict[str, list[list[str]]] = {}
    """Test split -> what each clip is composed of, in the split's order; an empty list where that is not recorded."""

    @property
    def best(self) -> dict[str, float]:
        """The report with the highest score that checkpoints are chosen by, and the costs; empty before the first."""
        if not self.reports:
            return {}
        best = max(self.reports, key=lambda report: report.get("val_listening", report["val_miou"]))
        return {**best, **self.cost}

    def mean_score(self, split: str, metric: str, condition: str = ORIGINAL) -> float | None:
        """Mean over the clips of a test split; None if it was not scored."""
        values = self.scores.get(condition, {}).get(split, {}).get(metric)
        return sum(values) / len(values) if values else None


class SweepStore:
    """The files of one sweep.

    Raises:
        ValueError: the storage cannot be reached; also when it cannot be read or written later.
    """

    def __init__(self, storage: str, name: str) -> None:
        self.uri = f"{storage.rstrip('/')}/sweeps/{name}"
        self.name = name
        self._files = Storage(self.uri, field="storage.uri")

    @property
    def training_uri(self) -> str:
        """`storage.uri` of the trials' trainings."""
        return f"{self.uri}/training"

    def definition(self) -> dict[str, Any] | None:
        """The definition; None for a sweep that has not started."""
        text = self.read("sweep.json")
        return None if text is None else json.loads(text)

    def write_definition(self, definition: dict[str, Any]) -> None:
        """Write the definition."""
        self.write("sweep.json", json.dumps(definition, indent=2))

    def trials(self) -> list[TrialRecord]:
        """The records of all trials that have started, in the order of the sweep."""
        names = Storage(f"{self.uri}/trials", field="storage.uri").sizes()
        found = [self.read(f"trials/{name}") for name in names if name.endswith(".json")]
        records = [TrialRecord.model_validate_json(text) for text in found if text is not None]
        return sorted(records, key=lambda record: record.number)

    def write_trial(self, record: TrialRecord) -> None:
        """Write the record of one trial; retried while the storage fails, with a warning.

        Raises:
            ValueError: the storage failed for `OUTAGE_S`.
        """
        text = record.model_dump_json()
        deadline = time.monotonic() + OUTAGE_S
        warned = False
        while True:
            try:
                self.write(f"trials/{record.id}.json", text)
                return
            except ValueError as error:
                if time.monotonic() > deadline:
                    raise
                if not warned:
                    logger.warning(f"{error}; trying again for {OUTAGE_S:.0f} s")
                    warned = True
            time.sleep(_RETRY_S)

    def read(self, name: str) -> str | None:
        """A text file; None if there is none."""
        if not self._files.exists(name):
            return None
        with self._files.open(name) as stream:
            return stream.read().decode()

    def write(self, name: str, text: str) -> None:
        """Write a text file atomically."""
        self._files.write(name, text.encode())


def values_text(values: dict[str, object]) -> str:
    """`lr 0.001  backbone resnet10t`: each key by its last part."""
    return "  ".join(
        f"{key.rsplit('.', 1)[-1]} {value:.4g}"
        if isinstance(value, float)
        else f"{key.rsplit('.', 1)[-1]} {value}"
        for key, value in values.items()
    )


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
