"""Records what Ray Tune reports about the trials: on the storage, in MLflow, and in the progress table."""

import contextlib
import logging
import re
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Callback

from sdavs_platform.tracking.client import log_or_warn, require_mlflow, unreachable
from sdavs_platform.tracking.runs import TrainingRun
from sdavs_platform.tuning.live_table import LiveTable
from sdavs_platform.tuning.search import PlannedTrial, TrialQueue
from sdavs_platform.tuning.store import SweepStore, TrialRecord

logger = logging.getLogger(__name__)

_RETRY_S = 30.0


class TrialRecorder(Callback):
    """Holds the records of the running trials only; those of ended trials are on the storage."""

    def __init__(
        self,
        *,
        store: SweepStore,
        table: LiveTable,
        queue: TrialQueue,
        tracking_uri: str | None,
        earlier: list[TrialRecord],
    ) -> None:
        """
        Args:
            queue: is notified of every trial that ends.
            tracking_uri: MLflow, to end the runs of trials that are stopped or killed; None without MLflow.
            earlier: records of interrupted trials that this command continues.
        """
        self._store, self._table, self._queue, self._tracking_uri = store, table, queue, tracking_uri
        self._earlier = {record.id: record for record in earlier}
        self._running: dict[str, TrialRecord] = {}
        self._seconds_before: dict[str, float] = {}
        self._unsent: deque[tuple[str, Callable[[], None]]] = deque()
        """Ends of MLflow runs that are not logged yet, with what they are."""
        self._next_attempt = 0.0

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for its own restore; a sweep is restored from the storage.
        return {}

    def planned(self, trial: PlannedTrial) -> TrialRecord:
        """Open the record of a trial that is handed to Tune; it has the reports of earlier starts."""
        record = self._earlier.pop(trial.id, None) or TrialRecord(
            id=trial.id, number=trial.number, values=trial.values, variant=trial.variant
        )
        record.error = None
        self._running[trial.id] = record
        return record

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See `ray.tune.Callback`."""
        record = self._running[str(trial)]
        record.state = "running"
        self._seconds_before[record.id] = record.seconds
        self._write(record)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """See `ray.tune.Callback`."""
        record = self._running[str(trial)]
        record.seconds = self._seconds_before[record.id] + result["seconds"]
        record.values = {**record.values, **result["values"]}
        if record.run_name not in (None, result["run_name"]):
            moved = f"continued from another trial's checkpoint as {result['run_name']}"
            self._end_run(record, lambda run: run.finish(), tags={"sdavs.stopped": moved})
        record.run_name, record.run_id = result["run_name"], result["run_id"]
        names = ("epoch", "val_miou", "val_fscore", "val_listening")
        report = {name: result[name] for name in names if name in result}
        # A retried trial, or one that continues from another's checkpoint, may report an epoch a second time.
        record.reports = [old for old in record.reports if old["epoch"] < report["epoch"]]
        record.reports.append(report | {"seconds": record.seconds})
        record.cost = {name: result[name] for name in ("latency_ms", "gmacs", "parameters_m")}
        if result["finished"]:
            record.scores = result["scores"]
            record.assets = result["assets"]
            record.checkpoint = result["best_checkpoint"]
            record.data_digest = result["data_digest"]
            record.state = "finished"
        self._write(record)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See `ray.tune.Callback`. A trial that completes without a final report was stopped by the scheduler."""
        record = self._running[str(trial)]
        if record.state != "finished":
            record.state = "stopped"
            record.error = f"stopped early after epoch {record.reports[-1]['epoch']:.0f}"
            self._end_run(record, lambda run: run.finish(), tags={"sdavs.stopped": record.error})
        self._close(record)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See `ray.tune.Callback`."""
        record = self._running[str(trial)]
        reason = reason_of(Path(trial.error_file).read_text())
        record.state, record.error = "failed", reason
        self._end_run(record, lambda run: run.fail(reason))
        self._close(record)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """See `ray.tune.Callback`."""
        self._table.tick()
        if self._unsent and time.monotonic() >= self._next_attempt:
            self._send()

    def interrupt(self) -> list[TrialRecord]:
        """Mark the trials that still run as interrupted, and log what is not logged yet; returns their records.

        A trial that has sent its final report remains finished, although Tune has not completed it.
        """
        cut = []
        for record in list(self._running.values()):
            if record.state != "finished":
                record.state = "interrupted"
                self._end_run(record, lambda run: run.fail("the sweep was interrupted", status="KILLED"))
                cut.append(record)
            self._close(record)
        if self._unsent:
            assert self._tracking_uri is not None
            with contextlib.suppress(ValueError):  # the warnings below name what is lost
                require_mlflow(self._tracking_uri)
            while self._unsent:
                what, log = self._unsent.popleft()
                log_or_warn(what, log, uri=self._tracking_uri)
        return cut

    def _write(self, record: TrialRecord) -> None:
        self._store.write_trial(record)
        if record.state == "running":
            self._table.show(record)

    def _close(self, record: TrialRecord) -> None:
        self._store.write_trial(record)
        self._table.show(record)
        self._queue.tell(record)
        self._running.pop(record.id)
        self._seconds_before.pop(record.id, None)

    def _end_run(
        self, record: TrialRecord, end: Callable[[TrainingRun], None], tags: dict[str, str] | None = None
    ) -> None:
        if self._tracking_uri is None or record.run_id is None:
            return
        run = TrainingRun(uri=self._tracking_uri, run_id=record.run_id)

        def log() -> None:
            run.set_tags(tags or {})
            end(run)

        self._unsent.append((f"{record.id}: the end of its run", log))
        self._send()

    def _send(self) -> None:
        """Log ends of runs until MLflow does not respond; the others follow `_RETRY_S` seconds later or at the end."""
        assert self._tracking_uri is not None
        while self._unsent:
            if reason := unreachable(self._tracking_uri):
                logger.warning(
                    f"MLflow does not respond ({reason}); {len(self._unsent)} final states of runs are logged later"
                )
                self._next_attempt = time.monotonic() + _RETRY_S
                return
            what, log = self._unsent.popleft()
            log_or_warn(what, log, uri=self._tracking_uri)


def reason_of(log: str) -> str:
    """Why a trial failed, in one line, from Tune's log of its failures; the last failure counts."""
    failure = re.split(r"^Failure # .*$", log, flags=re.MULTILINE)[-1]
    lines = [line.strip() for line in failure.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception): ", line)]
    # Ray describes a dead process in sentences, the most important first.
    line = named[-1] if named else lines[0]
    return re.sub(r"^(ValueError|RuntimeError): ", "", line)
