"""A sweep from its definition to its report: check everything, open the books, run the trials, register, tell."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from rich.console import Console

from sdavs_platform.cluster import joined_cluster, num_places, require_resources
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.tracking.runs import TrainingRun, git_commit
from sdavs_platform.training.run import check_data, resolved
from sdavs_platform.tuning.candidate import register_candidate
from sdavs_platform.tuning.driver import run_trials
from sdavs_platform.tuning.live import LiveTable
from sdavs_platform.tuning.parent import child_tags, open_parent
from sdavs_platform.tuning.plan import make_plan
from sdavs_platform.tuning.report.build import build_report
from sdavs_platform.tuning.space import normalized
from sdavs_platform.tuning.store import ENDED, SweepStore
from sdavs_platform.tuning.study import Study, parse_study
from sdavs_platform.tuning.sweep import SweepConfig
from sdavs_platform.tuning.trial import Trial, TrialSettings
from sdavs_platform.tuning.watch import Watch

# What may change when a sweep is continued; anything else would make another sweep of it.
_CONTINUABLE = ("num_trials", "seeds", "max_concurrent", "retries", "register_best")


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """What a sweep leaves behind."""

    num_finished: int
    num_failed: int
    interrupted: bool
    report: Path
    """The HTML file on this machine."""
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
        config: what all trials share, with `sweep.base` in it already.
        command: how to run it again, for the report.
        retry_failed: give trials that failed in an earlier start another chance.

    Raises:
        ValueError: a bad definition, data, storage or cluster; nothing has been started then.
        RuntimeError: every trial failed; says why.
    """
    study = parse_study(sweep.study, config) if sweep.study else None
    sweep = sweep.model_copy(update={"space": normalized(sweep.space, config)})
    config = resolved(config)
    digest = check_data(config)
    assert config.storage.uri is not None
    store = SweepStore(config.storage.uri, sweep.name)
    definition = _definition(sweep, config, command=command, digest=digest)
    _check_continues(store, definition)
    records = [_forgiven(record) if retry_failed else record for record in store.trials()]
    plan = make_plan(sweep, config, study=study, records=records)
    store.write_definition(definition)
    parent = open_parent(sweep, config, store, data_digest=digest)
    console = console or Console(highlight=False)
    ended = [record for record in records if record.state in ENDED]
    table = LiveTable(
        name=sweep.name,
        num_trials=len(ended) + plan.num_left,
        objective=sweep.objectives[0],
        console=console,
    )
    for record in ended:
        table.known(record)
    watch = Watch(
        store=store,
        table=table,
        plan=plan,
        tracking_uri=parent.uri,
        earlier=[record for record in records if record.state not in ENDED],
    )
    candidate = None
    try:
        with joined_cluster(config, prints_workers=False):
            if plan.num_left:
                console.print(
                    f"{sweep.name}: {plan.num_left} trials to run, {len(ended)} done before | "
                    f"MLflow run {parent.run_id} at {parent.uri}",
                    soft_wrap=True,
                )
                settings = _settings(sweep, config, study, store, parent, records)
                with table:
                    run_trials(
                        plan,
                        tune.with_parameters(Trial, settings=settings),
                        sweep=sweep,
                        store=store,
                        watch=watch,
                        epochs=config.training.epochs,
                        max_concurrent=_num_concurrent(sweep, config),
                    )
            cut = watch.interrupted()
            if not cut and not plan.num_left:
                candidate = register_candidate(sweep, config, store)
    except BaseException as error:
        watch.interrupted()
        parent.fail(str(error) or type(error).__name__)
        raise
    return _closed(sweep, store, parent, candidate, interrupted=bool(cut) or plan.num_left > 0)


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
        ValueError: the name belongs to another sweep; names the keys.
    """
    before = store.definition()
    if before is None:
        return
    changed = [
        key
        for key, value in definition["sweep"].items()
        if key not in _CONTINUABLE and before["sweep"].get(key) != value
    ]
    changed += [
        section
        for section in ("data", "model", "optimizer", "training", "seed", "deepspeed")
        if before["config"][section] != definition["config"][section]
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
    records: list[Any],
) -> TrialSettings:
    # A population's checkpoints must outlive the moment in which another trial goes on from them.
    keeps = config.training.epochs if sweep.scheduler == "pbt" else config.training.keep_checkpoints
    shared = config.model_copy(
        update={
            "training": config.training.model_copy(update={"keep_checkpoints": keeps}),
            "storage": config.storage.model_copy(update={"uri": store.training_uri}),
            "tracking": config.tracking.model_copy(update={"registered_model": None}),
        }
    )
    return TrialSettings(
        sweep=sweep.name,
        config=shared,
        # A search never sees the test splits, or the best trial would be the one that fits them best.
        conditions=study.conditions if study else (),
        tags=child_tags(sweep, parent),
        run_names={r.id: r.run_name for r in records if r.state not in ENDED and r.run_name},
    )


def _num_concurrent(sweep: SweepConfig, config: RunConfig) -> int:
    """Trials whose workers all find places at once, so that none holds half of what another waits for."""
    if config.cluster.autoscales:
        return sweep.max_concurrent or 1
    groups = num_places(config.cluster) // config.cluster.max_workers
    if not groups:
        # An elastic group may do with fewer workers; alone, so that two do not share out what both want.
        require_resources(config.cluster)
        groups = 1
    return min(groups, sweep.max_concurrent or groups)


def _forgiven(record: Any) -> Any:
    return (
        record.model_copy(update={"state": "pending", "error": None}) if record.state == "failed" else record
    )


def _closed(
    sweep: SweepConfig,
    store: SweepStore,
    parent: TrainingRun,
    candidate: dict[str, str] | None,
    *,
    interrupted: bool,
) -> SweepResult:
    trials = store.trials()
    failed = [trial for trial in trials if trial.state == "failed"]
    num_finished = sum(trial.state == "finished" for trial in trials)
    report = build_report(store, parent=parent)
    if interrupted:
        parent.fail("interrupted; the same command continues", status="KILLED")
    elif not num_finished:
        reason = f"no trial finished; {failed[0].id}: {failed[0].error}" if failed else "no trial finished"
        parent.fail(reason)
        raise RuntimeError(f"{sweep.name}: {reason}")
    else:
        parent.finish()
    return SweepResult(
        num_finished=num_finished,
        num_failed=len(failed),
        interrupted=interrupted,
        report=report,
        candidate=candidate,
    )
