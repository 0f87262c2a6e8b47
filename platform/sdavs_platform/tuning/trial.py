"""A trial: a process that runs a whole Ray Train training and reports every validation to Tune.

The process reserves no CPU, because it only waits for its training's workers. Workers are placed all together or not
at all, and the sweep starts only as many trials as the cluster has room for groups of workers.
"""

import hashlib
import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray import tune
from ray.util.queue import Empty, Queue

from sdavs_platform.config.tree import RunConfig
from sdavs_platform.ray_internals import abort_training
from sdavs_platform.training.checkpoints.listing import checkpoint_address
from sdavs_platform.training.preflight import resolved
from sdavs_platform.training.run import TrainResult, train
from sdavs_platform.training.shared_files import with_files_here
from sdavs_platform.tuning.measurements import clip_assets, measure_cost, on_a_worker, score_clips
from sdavs_platform.tuning.space import with_values

POINTER = "pointer.json"


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """Settings that all trials of a sweep share."""

    sweep: str
    config: RunConfig
    """The sweep's config; its `storage.uri` is the folder of the trials' trainings."""
    conditions: tuple[str, ...]
    """Sounds of the test; with () the test splits are not used."""
    tags: dict[str, str]
    """Tags of every trial's MLflow run."""
    shared_files: dict[str, str]
    """See `share_files`: this process may run on another machine than the sweep's."""
    run_names: dict[str, str]
    """Trial -> the training to continue, for interrupted trials that had moved to another trial's checkpoint."""


class Trial(tune.Trainable):
    """Trains one configuration. Each step is a validation; the last is marked "finished" and has the test scores.

    Tune's config of a trial is dotted key -> value; and "trial", its name until it takes over another's values.
    """

    def setup(self, config: dict[str, Any], **shared: Any) -> None:
        """See `ray.tune.Trainable`; `tune.with_parameters` adds `settings`, the sweep's TrialSettings."""
        self._settings: TrialSettings = shared["settings"]
        self._values = {key: value for key, value in config.items() if key != "trial"}
        settings = self._settings
        self._name = settings.run_names.get(self.trial_name, f"{settings.sweep}-{self.trial_name}")
        self._donor: str | None = None
        self._training: Training | None = None

    def step(self) -> dict[str, Any]:
        """See `ray.tune.Trainable`.

        Raises:
            ValueError, RuntimeError: the training failed; one line.
        """
        if self._training is None:
            # What an architecture makes of its files, such as the classes of a bank, decides on the model's shapes.
            config = with_values(self._settings.config, self._values | {"name": self._name})
            self._config = resolved(with_files_here(config, self._settings.shared_files))
            self._cost = on_a_worker(measure_cost, self._config)
            tags = self._settings.tags | {"sdavs.trial": self.trial_name}
            if self._donor is not None:
                tags["sdavs.start_from"] = self._donor
            self._training = Training(self._config, start_from=self._donor, tags=tags)
        report = self._training.next_report()
        end: dict[str, Any] = {"finished": report is None}
        if report is None:
            report, end = self._training.last, end | self._finish()
        storage = self._config.storage.uri
        assert storage is not None
        self._checkpoint = checkpoint_address(storage, self._config.name, report["checkpoint"])
        own = {"values": self._values, "run_name": self._name}
        return report | self._cost | own | end

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save the address of the checkpoint for other trials; the checkpoint itself is on the storage."""
        pointer = {"run_name": self._name, "checkpoint": self._checkpoint}
        (Path(checkpoint_dir) / POINTER).write_text(json.dumps(pointer))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Continue from another trial's checkpoint, as a training of a new name; its own needs no loading."""
        pointer = json.loads((Path(checkpoint) / POINTER).read_text())
        if pointer["run_name"] != self._name:
            self._donor = pointer["checkpoint"]
            changed = json.dumps([self._donor, self._values], sort_keys=True).encode()
            suffix = hashlib.sha256(changed).hexdigest()[:6]
            self._name = f"{self._settings.sweep}-{self.trial_name}-{suffix}"

    def cleanup(self) -> None:
        """Release the workers; Tune calls this when the trial ends, also when it is stopped early."""
        if self._training is not None:
            self._training.stop()

    def _finish(self) -> dict[str, Any]:
        assert self._training is not None
        result = self._training.result
        checkpoint = result.checkpoint
        conditions = self._settings.conditions
        scores, assets = {}, {}
        if conditions:
            scores = on_a_worker(score_clips, self._config, checkpoint=checkpoint, conditions=conditions)
            assets = on_a_worker(clip_assets, self._config)
        return {
            "done": True,
            "scores": scores,
            "assets": assets,
            "best_checkpoint": checkpoint,
            "data_digest": result.data_digest,
        }


class ForwardReports(ray.train.UserCallback):
    """Sends the reports of rank 0 from Ray Train's controller to the trial, with a handle of the controller."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """See `ray.train.UserCallback`."""
        report = metrics[0] | {
            "run_id": run_context.train_loop_config["run_id"],
            "checkpoint": checkpoint.path,
        }
        self._queue.put((report, ray.get_runtime_context().current_actor))


class Training:
    """A training in a thread, because `train` returns only at the end and Tune needs every validation."""

    def __init__(self, config: RunConfig, *, start_from: str | None, tags: dict[str, str]) -> None:
        self._config, self._start_from, self._tags = config, start_from, tags
        self._queue = Queue(actor_options={"num_cpus": 0})
        self._controller: Any = None
        self._result: TrainResult | None = None
        self._error: BaseException | None = None
        self._is_stopped = False
        self._started = time.monotonic()
        self.last: dict[str, Any] = {}
        """The latest report."""
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()

    def next_report(self) -> dict[str, Any] | None:
        """Wait for the next report; None after the final one, which is in `last`.

        Raises:
            ValueError, RuntimeError: the training failed.
        """
        while self._thread.is_alive() or not self._queue.empty():
            try:
                report, self._controller = self._queue.get(timeout=1)
            except Empty:
                continue
            self.last = report | {"seconds": time.monotonic() - self._started}
            if report["epoch"] < self._config.training.epochs and not report["stopped"]:
                return self.last
        if self._error is not None:
            raise self._error
        if not self.last:
            self.last = self._nothing_left()
        return None

    @property
    def result(self) -> TrainResult:
        """The result; available after the last report."""
        assert self._result is not None
        return self._result

    def stop(self) -> None:
        """End the training if it still runs, and release its workers."""
        if self._thread.is_alive() and self._controller is not None:
            self._is_stopped = True
            abort_training(self._controller)
        self._queue.shutdown(force=True)

    def _nothing_left(self) -> dict[str, Any]:
        """A report for a continued training that had already ended."""
        scores = self.result.metrics[self._config.data.val_split]
        return {
            "epoch": self._config.training.epochs,
            "seconds": time.monotonic() - self._started,
            "run_id": self.result.run_id,
            "checkpoint": self.result.checkpoint,
        } | {f"val_{name}": value for name, value in scores.items()}

    def _train(self) -> None:
        try:
            self._result = train(
                self._config,
                tags=self._tags,
                callbacks=[ForwardReports(self._queue)],
                start_from=self._start_from,
                finishes=False,
                is_stopped=lambda: self._is_stopped,
            )
        except BaseException as error:
            self._error = error
