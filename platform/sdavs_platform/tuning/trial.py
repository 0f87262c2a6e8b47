"""One trial: a function that Tune calls in a process of its own, and that drives a whole Ray Train training.

The process leases no CPU: it waits for its training's workers. They get their places together or not at all, and
the sweep starts only as many trials as the cluster holds groups of workers.
"""

import hashlib
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray import tune
from ray.util.queue import Empty, Queue

from sdavs_platform.config import RunConfig
from sdavs_platform.training.run import TrainResult, train
from sdavs_platform.tuning.scoring import measure_cost, on_a_worker, score_clips
from sdavs_platform.tuning.space import with_values

POINTER = "pointer.json"


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """What all trials of a sweep share."""

    sweep: str
    config: RunConfig
    """The sweep's config; `storage.uri` is the folder of the trials' trainings."""
    objectives: tuple[str, ...]
    conditions: tuple[str, ...]
    """What the models hear in the test; () leaves the test splits alone."""
    tags: dict[str, str]
    """Of every trial's MLflow run."""
    exchanges: bool
    """Trials may go on from each other's checkpoints (population based training)."""
    run_names: dict[str, str]
    """Trial -> the training it goes on with, where it had changed course before it was interrupted."""


def run_trial(values: dict[str, Any], *, settings: TrialSettings) -> None:
    """Train one configuration and tell Tune of every validation.

    The last validation is told together with the test scores, when everything is done: "finished" is true there.

    Args:
        values: dotted key -> value; and "trial", which names the trial only until it copies another's values.

    Raises:
        ValueError, RuntimeError: the training failed, or reports no such objective; one line.
    """
    trial = tune.get_context().get_trial_name()
    values = {key: value for key, value in values.items() if key != "trial"}
    name = settings.run_names.get(trial, f"{settings.sweep}-{trial}")
    donor = _donated(name) if settings.exchanges else None
    if donor:
        changed = json.dumps([donor, values], sort_keys=True).encode()
        name = f"{settings.sweep}-{trial}-{hashlib.sha256(changed).hexdigest()[:6]}"
    config = with_values(settings.config, values | {"name": name})
    cost = on_a_worker(measure_cost, config)
    training = _Training(config, start_from=donor, tags=settings.tags | {"sdavs.trial": trial})
    for report in training.reports():
        missing = [key for key in settings.objectives if key not in report | cost]
        if missing:
            raise ValueError(
                f"objectives: {missing[0]!r} is never reported; reported: {', '.join(report | cost)}"
            )
        _tell(report | cost | {"finished": False}, values, config, settings)
    result = training.result
    checkpoint = checkpoint_uri(config, result.checkpoint)
    scores = {}
    if settings.conditions:
        scores = on_a_worker(score_clips, config, checkpoint=checkpoint, conditions=settings.conditions)
    ended = {"finished": True, "scores": scores, "best_checkpoint": checkpoint}
    _tell(training.last | cost | ended | {"data_digest": result.data_digest}, values, config, settings)


def checkpoint_uri(config: RunConfig, path: str) -> str:
    """A checkpoint's address with its scheme, which Ray Train leaves out."""
    return f"{config.storage.uri}/{config.name}/{Path(path).name}"


class ForwardReports(ray.train.UserCallback):
    """Sends the first worker's reports from Ray Train's controller to the trial."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """See `ray.train.UserCallback`."""
        run_id = run_context.train_loop_config["run_id"]
        self._queue.put(metrics[0] | {"run_id": run_id, "checkpoint": checkpoint.path})


class _Training:
    """A training in a thread: `train` returns only at the end, and Tune wants to hear of every validation."""

    def __init__(self, config: RunConfig, *, start_from: str | None, tags: dict[str, str]) -> None:
        self._config, self._start_from, self._tags = config, start_from, tags
        self._queue = Queue(actor_options={"num_cpus": 0})
        self._result: TrainResult | None = None
        self._error: BaseException | None = None
        self._started = time.monotonic()
        self.last: dict[str, Any] = {}

    def reports(self) -> Iterator[dict[str, Any]]:
        """All reports but the last of the training, which stays in `last`.

        Raises:
            ValueError, RuntimeError: the training failed.
        """
        # A daemon: when Tune stops the trial the process ends, and with it what Ray Train leased.
        thread = threading.Thread(target=self._train, daemon=True)
        thread.start()
        while thread.is_alive() or not self._queue.empty():
            try:
                report = self._queue.get(timeout=1)
            except Empty:
                continue
            self.last = report | {"seconds": time.monotonic() - self._started}
            if report["epoch"] < self._config.training.epochs and not report["stopped"]:
                yield self.last
        self._queue.shutdown()
        if self._error is not None:
            raise self._error

    @property
    def result(self) -> TrainResult:
        """After `reports`."""
        assert self._result is not None
        if not self.last:
            # Resumed after its last epoch: nothing was reported, the result is all there is.
            val = self._result.metrics[self._config.data.val_split]
            self.last = {
                "epoch": self._config.training.epochs,
                "seconds": time.monotonic() - self._started,
                "run_id": self._result.run_id,
                "checkpoint": self._result.checkpoint,
            } | {f"val_{key}": value for key, value in val.items()}
        return self._result

    def _train(self) -> None:
        try:
            self._result = train(
                self._config,
                tags=self._tags,
                callbacks=[ForwardReports(self._queue)],
                start_from=self._start_from,
                finishes=False,
            )
        except BaseException as error:
            self._error = error


def _tell(report: dict[str, Any], values: dict[str, Any], config: RunConfig, settings: TrialSettings) -> None:
    report = report | {"values": values, "run_name": config.name}
    checkpoint = checkpoint_uri(config, report.pop("checkpoint"))
    if not settings.exchanges:
        tune.report(report)
        return
    # What Tune hands from trial to trial is only the address; the checkpoint itself lies on the storage.
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / POINTER).write_text(json.dumps({"run_name": config.name, "checkpoint": checkpoint}))
        tune.report(report, checkpoint=tune.Checkpoint.from_directory(folder))


def _donated(name: str) -> str | None:
    """The checkpoint that Tune gave this trial, if another training made it."""
    given = tune.get_checkpoint()
    if given is None:
        return None
    with given.as_directory() as folder:
        pointer = json.loads((Path(folder) / POINTER).read_text())
    return None if pointer["run_name"] == name else pointer["checkpoint"]
