"""Runs the trials of a sweep with Ray Tune, as many at once as fit into the cluster."""

import logging
import os
import signal
import warnings
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher

from sdavs_platform.tuning.recorder import TrialRecorder
from sdavs_platform.tuning.search import PlannedTrial, TrialQueue
from sdavs_platform.tuning.space import Dimension
from sdavs_platform.tuning.store import SweepStore, TrialRecord
from sdavs_platform.tuning.sweep import METRICS, SweepConfig

DRIVER_MEMORY_BYTES = 256 * 1024**2
"""Resources that a trial's own process reserves in addition to its workers. Our choice: no CPU, because it only waits,
and a fraction of one would keep the last worker from a full node."""

# Tune's own records (one per trial and result, and a state of all trials) would grow with the sweep; this project
# keeps its own on the storage.
_TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "100000",
    # Its newer tables are printed at every verbosity.
    "RAY_AIR_NEW_OUTPUT": "0",
}


def run_trials(
    queue: TrialQueue,
    trainable: Any,
    *,
    sweep: SweepConfig,
    store: SweepStore,
    recorder: TrialRecorder,
    epochs: int,
    max_concurrent: int,
    ended: Sequence[TrialRecord] = (),
    reuses_processes: bool = False,
) -> None:
    """Run all trials of the queue, or until Ctrl-C or SIGTERM, which stop the running trials cleanly.

    Args:
        trainable: Tune's function or class; reports what `sdavs_platform.tuning.trial.Trial` reports.
        epochs: length of a trial that is not stopped early.
        max_concurrent: how many trials fit into the cluster at once.
        ended: records of the trials that ended in earlier starts of the sweep; ASHA compares new trials with them.
        reuses_processes: run one trial after another in the same process. Not for trainings: the process of a
            stopped trial still holds a running training, and must end.

    Raises:
        ValueError: more trials have to run at once than fit.
    """
    for name, value in _TUNE_SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    # Tune advises to reuse processes, which trainings must not do, see `reuses_processes`.
    warnings.filterwarnings("ignore", message="Consider boosting PBT performance")
    resources: dict[str, float] = {"cpu": 0, "memory": DRIVER_MEMORY_BYTES}
    num_trials = queue.num_left
    scheduler = _scheduler(sweep, epochs, ended)
    options: dict[str, Any] = {
        "num_samples": num_trials,
        "max_concurrent_trials": max_concurrent,
        "scheduler": scheduler,
        "trial_name_creator": _name_of,
        "trial_dirname_creator": _name_of,
        "reuse_actors": reuses_processes,
    }
    param_space = None
    if sweep.scheduler == "pbt":
        # Checked for the whole population: a continued one may have a single member left.
        if not 2 <= sweep.num_trials <= max_concurrent:
            raise ValueError(
                f"num_trials: a population of {sweep.num_trials} trains at the same time, and this cluster holds "
                f"{max_concurrent} trials at once; allowed: 2 to {max_concurrent}"
            )
        # Tune lets a population come from a fixed list only.
        options |= {"num_samples": 1, "max_concurrent_trials": None}
        param_space = _population(queue, sweep, recorder)
    else:
        options["search_alg"] = _QueueSearcher(queue, recorder, scheduler)
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space=param_space,
        tune_config=tune.TuneConfig(**options),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=store.uri,
            callbacks=[recorder],
            failure_config=tune.FailureConfig(max_failures=sweep.retries),
            verbose=0,
        ),
    )
    # Tune stops cleanly on SIGINT; `ray job stop` sends SIGTERM.
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        tuner.fit()
    finally:
        signal.signal(signal.SIGTERM, before)


class _QueueSearcher(Searcher):
    """Adapts a trial queue to the interface from which Tune gets trials."""

    def __init__(self, queue: TrialQueue, recorder: TrialRecorder, scheduler: TrialScheduler | None) -> None:
        super().__init__()
        self._queue, self._recorder, self._scheduler = queue, recorder, scheduler

    def suggest(self, trial_id: str) -> Any:
        planned = self._queue.next()
        if planned is None:
            return Searcher.FINISHED
        record = self._recorder.planned(planned)
        if isinstance(self._scheduler, Asha):
            self._scheduler.replay(trial_id, record.reports)
        return {"trial": planned.id} | planned.values

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing to do: the recorder notifies the queue."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to do: the records are on the storage."""

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a sweep is restored from the storage")


class Asha(ASHAScheduler):
    """ASHA that can be given the reports of earlier starts of a sweep; Tune alone would start with empty rungs."""

    def replay(self, trial_id: str, reports: Sequence[dict[str, float]]) -> None:
        """Put the reports of a trial into the rungs, as if it had made them now.

        Args:
            trial_id: the one that Tune uses if the trial is continued, so that no rung counts it twice.
        """
        trial: Any = SimpleNamespace(trial_id=trial_id)  # all that ASHA reads of a trial
        controller: Any = None  # which it does not read
        self.on_trial_add(controller, trial)
        for report in reports:
            self.on_trial_result(controller, trial, report)


class _Exchange(PopulationBasedTraining):
    """Population based training that leaves a trial alone which has just finished; Tune's would replace it."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if result["finished"]:
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)


def asha_scheduler(sweep: SweepConfig, *, epochs: int, ended: Sequence[TrialRecord]) -> Asha:
    """Successive halving, with the rungs filled from the trials that ended before."""
    asha = Asha(
        time_attr="epoch",
        max_t=epochs,
        grace_period=min(sweep.asha.grace_epochs, epochs),
        reduction_factor=sweep.asha.reduction_factor,
        **_goal(sweep),
    )
    for record in ended:
        asha.replay(record.id, record.reports)
    return asha


def _scheduler(sweep: SweepConfig, epochs: int, ended: Sequence[TrialRecord]) -> TrialScheduler | None:
    if sweep.scheduler == "asha":
        return asha_scheduler(sweep, epochs=epochs, ended=ended)
    if sweep.scheduler == "pbt":
        return _Exchange(
            time_attr="epoch",
            perturbation_interval=sweep.pbt.every_epochs,
            quantile_fraction=sweep.pbt.quantile,
            hyperparam_mutations={key: _mutation(dimension) for key, dimension in sweep.space.items()},
            custom_explore_fn=_Clamp(sweep.space),
            **_goal(sweep),
        )
    return None


def _goal(sweep: SweepConfig) -> dict[str, Any]:
    return {"metric": sweep.objectives[0], "mode": METRICS[sweep.objectives[0]].mode}


class _Clamp:
    """Clips values to the space: Tune changes them by a fifth, which may leave it."""

    def __init__(self, space: dict[str, Dimension]) -> None:
        self._space = space

    def __call__(self, values: dict[str, Any]) -> dict[str, Any]:
        for key, dimension in self._space.items():
            if dimension.kind != "choice":
                low, high = dimension.extremes
                values[key] = type(low)(min(max(values[key], low), high))
        return values


def _mutation(dimension: Dimension) -> Any:
    if dimension.kind == "choice":
        return list(dimension.extremes)
    low, high = dimension.extremes
    if dimension.kind in ("integer", "log_integer"):
        draw = tune.lograndint if dimension.is_logarithmic else tune.randint
        return draw(low, high + 1)
    return (tune.loguniform if dimension.is_logarithmic else tune.uniform)(low, high)


def _population(queue: TrialQueue, sweep: SweepConfig, recorder: TrialRecorder) -> dict[str, Any]:
    members: dict[str, PlannedTrial] = {}
    while (trial := queue.next()) is not None:
        members[trial.id] = trial
        recorder.planned(trial)

    def value_of(key: str) -> Any:
        def of_member(spec: Any) -> Any:
            return members[spec.config["trial"]].values[key]

        return tune.sample_from(of_member)

    return {"trial": tune.grid_search([*members])} | {key: value_of(key) for key in sweep.space}


def _name_of(trial: Any) -> str:
    return trial.config["trial"]
