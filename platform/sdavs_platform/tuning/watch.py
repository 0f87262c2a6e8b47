"""Hears from Tune what happens to the trials; keeps it on the storage, in MLflow and on the screen."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Callback

from sdavs_platform.tracking.runs import TrainingRun
from sdavs_platform.tuning.live import LiveTable
from sdavs_platform.tuning.plan import Plan, Planned
from sdavs_platform.tuning.store import SweepStore, TrialRecord


class Watch(Callback):
    """Knows the running trials only; what has ended is on the storage."""

    def __init__(
        self,
        *,
        store: SweepStore,
        table: LiveTable,
        plan: Plan,
        tracking_uri: str | None,
        earlier: list[TrialRecord],
    ) -> None:
        """
        Args:
            tracking_uri: MLflow, to end the runs of trials that are stopped or killed; None without MLflow.
            earlier: trials on record that go on.
        """
        self._store, self._table, self._plan, self._tracking_uri = store, table, plan, tracking_uri
        self._earlier = {record.id: record for record in earlier}
        self._running: dict[str, TrialRecord] = {}
        self._seconds_before: dict[str, float] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restore of its own; a sweep is restored from the storage.
        return {}

    def planned(self, trial: Planned) -> None:
        """A trial is handed to Tune."""
        record = self._earlier.pop(trial.id, None) or TrialRecord(
            id=trial.id, number=trial.number, values=trial.values, variant=trial.variant
        )
        record.error = None
        self._running[trial.id] = record

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See `ray.tune.Callback`."""
        record = self._running[str(trial)]
        record.state = "running"
        self._seconds_before[record.id] = record.seconds
        self._keep(record)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """See `ray.tune.Callback`."""
        record = self._running[str(trial)]
        record.seconds = self._seconds_before[record.id] + result["seconds"]
        record.values = {**record.values, **result["values"]}
        if record.run_name not in (None, result["run_name"]):
            went_on = f"went on from another trial as {result['run_name']}"
            self._end_run(record, lambda run: run.finish(), tags={"sdavs.stopped": went_on})
        record.run_name, record.run_id = result["run_name"], result["run_id"]
        report = {name: result[name] for name in ("epoch", "val_miou", "val_fscore")}
        # A trial that is tried again, or goes on from another's checkpoint, may report an epoch a second time.
        record.reports = [old for old in record.reports if old["epoch"] < report["epoch"]]
        record.reports.append(report | {"seconds": record.seconds})
        record.cost = {name: result[name] for name in ("latency_ms", "gmacs", "parameters_m")}
        if result["finished"]:
            record.scores = result["scores"]
            record.checkpoint = result["best_checkpoint"]
            record.data_digest = result["data_digest"]
            record.state = "finished"
        self._keep(record)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See `ray.tune.Callback`. A trial that ends without having said so was stopped by the scheduler."""
        record = self._running[str(trial)]
        if record.state != "finished":
            record.state, record.error = (
                "stopped",
                f"stopped early after epoch {record.reports[-1]['epoch']:.0f}",
            )
            self._end_run(record, lambda run: run.finish(), tags={"sdavs.stopped": record.error})
        self._ended(record)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See `ray.tune.Callback`."""
        record = self._running[str(trial)]
        reason = reason_of(Path(trial.error_file).read_text())
        record.state, record.error = "failed", reason
        self._end_run(record, lambda run: run.fail(reason))
        self._ended(record)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """See `ray.tune.Callback`."""
        self._table.tick()

    def interrupted(self) -> list[TrialRecord]:
        """What still runs has been cut off; returns it."""
        cut = list(self._running.values())
        for record in cut:
            record.state = "interrupted"
            self._end_run(record, lambda run: run.fail("the sweep was interrupted", status="KILLED"))
            self._ended(record)
        return cut

    def _keep(self, record: TrialRecord) -> None:
        self._store.write_trial(record)
        if record.state == "running":
            self._table.show(record)

    def _ended(self, record: TrialRecord) -> None:
        self._store.write_trial(record)
        self._table.show(record)
        self._plan.tell(record)
        self._running.pop(record.id)
        self._seconds_before.pop(record.id, None)

    def _end_run(
        self, record: TrialRecord, end: Callable[[TrainingRun], None], tags: dict[str, str] | None = None
    ) -> None:
        if self._tracking_uri is None or record.run_id is None:
            return
        run = TrainingRun(uri=self._tracking_uri, run_id=record.run_id)
        run.set_tags(tags or {})
        end(run)


def reason_of(log: str) -> str:
    """The one line that says why a trial failed, out of Tune's file of its failures (the last one counts)."""
    failure = re.split(r"^Failure # .*$", log, flags=re.MULTILINE)[-1]
    lines = [line.strip() for line in failure.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception): ", line)]
    # Ray tells of a dead process in sentences, the most important first.
    line = named[-1] if named else lines[0]
    return re.sub(r"^(ValueError|RuntimeError): ", "", line)
