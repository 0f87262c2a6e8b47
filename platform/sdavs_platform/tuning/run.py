"""Runs a sweep: checks the definition, opens the records and the MLflow run, runs the trials, registers the best."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from mlflow.exceptions import MlflowException
from ray import tune
from rich.console import Console

from sdavs_platform.cluster import joined_cluster, num_worker_slots, require_resources, with_gpus_decided
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.tracking.client import log_or_warn, without_credentials
from sdavs_platform.tracking.runs import TrainingRun, git_commit
from sdavs_platform.training.preflight import check_data, resolved
from sdavs_platform.training.shared_files import share_files
from sdavs_platform.tuning.driver import run_trials
from sdavs_platform.tuning.live_table import LiveTable
from sdavs_platform.tuning.recorder import TrialRecorder
from sdavs_platform.tuning.search import trial_queue
from sdavs_platform.tuning.space import normalized
from sdavs_platform.tuning.store import ENDED, SweepStore, TrialRecord
from sdavs_platform.tuning.study import Study, parse_study
from sdavs_platform.tuning.sweep import SweepConfig
from sdavs_platform.tuning.tracking import child_tags, open_parent, register_candidate
from sdavs_platform.tuning.trial import Trial, TrialSettings

FOREVER_S = 365.0 * 24 * 3600

# What may change when a sweep is continued; any other change makes it another sweep.
_CONTINUABLE = ("num_trials", "seeds", "max_concurrent", "retries", "register_best")


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """The outcome of a sweep."""

    store: SweepStore
    """Its records, from which `sdavs_platform.tuning.report` builds the report."""
    parent: TrainingRun
    """Its MLflow run."""
    num_finished: int
    num_failed: int
    interrupted: bool
    failure: str | None
    """Why no trial finished, or why the best one could not be registered; one line."""
    candidate: dict[str, str] | None


def run_sweep(
    sweep: SweepConfig,
    config: RunConfig,
    *,
    command: Sequence[str],
    retry_failed: bool = False,
    console: Console | None = None,
) -> SweepResult:
    """Run, or continue, the sweep named `sweep.name`.

    Args:
        config: what all trials share, with `sweep.base` applied.
        command: how to run the sweep again, for the report.
        retry_failed: also run trials again that failed in an earlier start.

    Raises:
        ValueError: a bad definition, data, storage or cluster; nothing has been started then.
    """
    if config.cluster.use_gpu == "auto":
        with joined_cluster(config, prints_workers=False):
            decided = with_gpus_decided(config)
            return run_sweep(sweep, decided, command=command, retry_failed=retry_failed, console=console)
    study = parse_study(sweep.study, config, sweep.models) if sweep.study else None
    sweep = sweep.model_copy(update={"space": normalized(sweep.space, config)})
    config = resolved(config)
    digest = check_data(config)
    assert config.storage.uri is not None
    store = SweepStore(config.storage.uri, sweep.name)
    definition = _definition(sweep, config, command=command, digest=digest)
    _check_continues(store, definition)
    records = [_reopened(record) if retry_failed else record for record in store.trials()]
    queue = trial_queue(sweep, config, study=study, records=records)
    store.write_definition(definition)
    parent = open_parent(sweep, config, store, data_digest=digest)
    console = console or Console(highlight=False)
    ended = [record for record in records if record.state in ENDED]
    table = LiveTable(
        name=sweep.name,
        num_trials=len(ended) + queue.num_left,
        objective=sweep.objectives[0],
        console=console,
    )
    for record in ended:
        table.known(record)
    recorder = TrialRecorder(
        store=store,
        table=table,
        queue=queue,
        tracking_uri=parent.uri,
        earlier=[record for record in records if record.state not in ENDED],
    )
    candidate, failure = None, None
    try:
        with joined_cluster(config, prints_workers=False):
            parent.record_process(ray.util.get_node_ip_address())
            if queue.num_left:
                console.print(
                    f"{sweep.name}: {queue.num_left} trials to run, {len(ended)} done before | "
                    f"MLflow run {parent.run_id} at {without_credentials(parent.uri)}",
                    soft_wrap=True,
                )
                settings = _settings(sweep, config, study, store, parent, records)
                with table:
                    run_trials(
                        queue,
                        tune.with_parameters(Trial, settings=settings),
                        sweep=sweep,
                        store=store,
                        recorder=recorder,
                        epochs=config.training.epochs,
                        max_concurrent=_num_concurrent(sweep, config),
                        ended=ended,
                    )
            cut = recorder.interrupt()
            interrupted = bool(cut) or queue.num_left > 0
            if not interrupted:
                candidate, failure = _register_best(sweep, config, store)
    except BaseException as error:
        recorder.interrupt()
        reason = str(error) or type(error).__name__
        log_or_warn("the end of the sweep", lambda: parent.fail(reason), uri=parent.uri)
        raise
    return _close(store, parent, candidate, interrupted=interrupted, failure=failure)


def _register_best(
    sweep: SweepConfig, config: RunConfig, store: SweepStore
) -> tuple[dict[str, str] | None, str | None]:
    """The registered candidate, if there is one, or else why it could not be registered."""
    try:
        return register_candidate(sweep, config, store), None
    except (ValueError, RuntimeError, MlflowException) as error:
        return None, f"the best trial could not be registered: {str(error).splitlines()[0]}"


def _definition(
    sweep: SweepConfig, config: RunConfig, *, command: Sequence[str], digest: str
) -> dict[str, Any]:
    return {
        "sweep": sweep.model_dump(mode="json"),
        "config": config.model_dump(mode="json"),
        "command": list(command),
        "data_digest": digest,
        "git_commit": git_commit(),
    }


def _check_continues(store: SweepStore, definition: dict[str, Any]) -> None:
    """Compare a definition with the one on the storage.

    Raises:
        ValueError: the name belongs to another sweep; names the keys that differ.
    """
    before = store.definition()
    if before is None:
        return
    # Keys of later versions take their defaults, which are what the earlier version did.
    config = RunConfig.model_validate(before["config"]).model_dump(mode="json")
    sweep = SweepConfig.model_validate(before["sweep"]).model_dump(mode="json")
    changed = [
        key
        for key, value in definition["sweep"].items()
        if key not in _CONTINUABLE and sweep.get(key) != value
    ]
    changed += [
        section
        for section in ("data", "model", "optimizer", "training", "seed", "deepspeed")
        if config[section] != definition["config"][section]
    ]
    if before["data_digest"] != definition["data_digest"]:
        changed.append("the data itself")
    if changed:
        raise ValueError(
            f"name: there is another sweep {store.name!r} at {store.uri} (it differs in: "
            f"{', '.join(changed)}); choose another --name, or set these back to continue"
        )


def _settings(
    sweep: SweepConfig,
    config: RunConfig,
    study: Study | None,
    store: SweepStore,
    parent: TrainingRun,
    records: list[TrialRecord],
) -> TrialSettings:
    # A population keeps all checkpoints: another trial may continue from any of them at any time.
    keeps = config.training.epochs if sweep.scheduler == "pbt" else config.training.keep_checkpoints
    shared = config.model_copy(
        update={
            "training": config.training.model_copy(update={"keep_checkpoints": keeps}),
            "storage": config.storage.model_copy(update={"uri": store.training_uri}),
            # A trial waits for its workers as long as other jobs, or the loss of a node, keep it waiting: a trial that
            # gave up would count as failed.
            "cluster": config.cluster.model_copy(update={"wait_seconds": FOREVER_S, "autoscales": True}),
            "tracking": config.tracking.model_copy(update={"registered_model": None}),
        }
    )
    return TrialSettings(
        sweep=sweep.name,
        config=shared,
        # A search never sees the test splits; otherwise it would select the trial that fits them best.
        conditions=study.conditions if study else (),
        tags=child_tags(sweep, parent),
        shared_files=share_files(shared),
        run_names={r.id: r.run_name for r in records if r.state not in ENDED and r.run_name},
    )


def _num_concurrent(sweep: SweepConfig, config: RunConfig) -> int:
    """How many trials can run with all their workers; no trial then holds half of what another waits for."""
    if config.cluster.autoscales:
        return sweep.max_concurrent or 1
    groups = num_worker_slots(config.cluster) // config.cluster.max_workers
    if not groups:
        # An elastic group may start with fewer workers, but only alone: two would split what both need.
        require_resources(config.cluster)
        groups = 1
    return min(groups, sweep.max_concurrent or groups)


def _reopened(record: TrialRecord) -> TrialRecord:
    return (
        record.model_copy(update={"state": "pending", "error": None}) if record.state == "failed" else record
    )


def _close(
    store: SweepStore,
    parent: TrainingRun,
    candidate: dict[str, str] | None,
    *,
    interrupted: bool,
    failure: str | None,
) -> SweepResult:
    """End the parent run in the state that fits the trials."""
    trials = store.trials()
    failed = [trial for trial in trials if trial.state == "failed"]
    num_finished = sum(trial.state == "finished" for trial in trials)
    if not interrupted and not num_finished:
        failure = f"no trial finished; {failed[0].id}: {failed[0].error}" if failed else "no trial finished"

    def end() -> None:
        if interrupted:
            parent.fail("interrupted; the same command continues", status="KILLED")
        elif failure:
            parent.fail(failure)
        else:
            parent.finish()

    log_or_warn("the end of the sweep", end, uri=parent.uri)
    return SweepResult(
        store=store,
        parent=parent,
        num_finished=num_finished,
        num_failed=len(failed),
        interrupted=interrupted,
        failure=failure,
        candidate=candidate,
    )
