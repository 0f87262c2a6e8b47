"""A sweep in MLflow: its parent run, the tags that make the trials' runs its children, and the registered candidate."""

import json
from typing import Any

import ray.train
from mlflow.entities import Param

from sdavs_model.weights.store import describe_weights
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.tracking.client import experiment_id, mlflow_client, require_mlflow, runs_tagged
from sdavs_platform.tracking.registry import promote
from sdavs_platform.tracking.runs import SWEEP_TAG, TrainingRun, git_commit, resolved_yaml
from sdavs_platform.training.finish import finish_training
from sdavs_platform.training.preflight import resolved
from sdavs_platform.tuning.folds import fold_scores
from sdavs_platform.tuning.measurements import on_a_worker
from sdavs_platform.tuning.space import with_values
from sdavs_platform.tuning.store import CANDIDATE_FILE, SweepStore, TrialRecord
from sdavs_platform.tuning.sweep import SweepConfig, best_trial

STORE_TAG = "sdavs.sweep_store"
ALIAS = "candidate"
"""Registry alias of the best trial's version."""


def open_parent(sweep: SweepConfig, config: RunConfig, store: SweepStore, *, data_digest: str) -> TrainingRun:
    """The parent run: the existing one if this sweep continues, else a new one.

    Raises:
        ValueError: MLflow does not respond, or the experiment is deleted.
    """
    assert config.tracking.uri is not None
    require_mlflow(config.tracking.uri)
    client = mlflow_client(config.tracking.uri)
    experiment = experiment_id(client, config.tracking.experiment)
    found = runs_tagged(client, [experiment], {STORE_TAG: store.uri})
    if found:
        run = TrainingRun(uri=config.tracking.uri, run_id=found[0].info.run_id)
        client.update_run(run.run_id, status="RUNNING")
    else:
        tags = {SWEEP_TAG: sweep.name, STORE_TAG: store.uri}
        created = client.create_run(experiment, run_name=sweep.name, tags=tags)
        run = TrainingRun(uri=config.tracking.uri, run_id=created.info.run_id)
        client.log_batch(run.run_id, params=[Param(key, value) for key, value in _params(sweep).items()])
    run.set_tags({"data_digest": data_digest, "git_commit": git_commit()})
    assert config.data.root is not None
    run.log_dataset(config.data.root, digest=data_digest)
    client.log_text(run.run_id, resolved_yaml(config), "config.yaml")
    client.log_dict(run.run_id, sweep.model_dump(mode="json"), "sweep.yaml")
    return run


def child_tags(sweep: SweepConfig, parent: TrainingRun) -> dict[str, str]:
    """Tags that make a trial's run a child of the sweep's run."""
    return {"mlflow.parentRunId": parent.run_id, SWEEP_TAG: sweep.name}


def register_candidate(sweep: SweepConfig, config: RunConfig, store: SweepStore) -> dict[str, str] | None:
    """Register the best trial's model with the alias `candidate`, unless that was done before; of a study of folds,
    the ensemble of all.

    Returns:
        {"model", "version", "trial", "checkpoint"}; None if there is nothing to register.

    Raises:
        RuntimeError: the checkpoint is incomplete, a fold has failed, or the registry refuses.
    """
    trials = store.trials()
    best = best_trial(sweep, trials)
    name = config.tracking.registered_model
    if best is None or name is None or not sweep.register_best:
        return None
    known = store.read(CANDIDATE_FILE)
    if known and json.loads(known)["checkpoint"] == best.checkpoint:
        return json.loads(known)
    assert best.checkpoint is not None
    assert config.tracking.uri is not None
    others: list[TrialRecord] = []
    val_scores = {"miou": best.best["val_miou"], "fscore": best.best["val_fscore"]}
    tags = {"sweep": sweep.name, "trial": best.id}
    data_digest = best.data_digest
    if found := fold_scores(trials):
        failed = [trial for trial in trials if trial.state != "finished"]
        if failed:
            raise RuntimeError(f"cannot build the ensemble: {failed[0].id} has {failed[0].state}")
        others = [trial for trial in trials if trial is not best]
        val_scores, tags = found.mean, {"sweep": sweep.name, "folds": str(len(trials))}
        # A fold's own digest is that of its part.
        definition = store.definition()
        assert definition is not None
        data_digest = definition["data_digest"]

    def config_of(trial: TrialRecord) -> RunConfig:
        return resolved(with_values(config, trial.values | {"name": trial.run_name}))

    config_of_best = config_of(best)
    _, version = on_a_worker(
        finish_training,
        config_of_best,
        checkpoint=ray.train.Checkpoint(best.checkpoint),
        val_scores=val_scores,
        uri=config.tracking.uri,
        run_id=best.run_id,
        data_digest=data_digest,
        weights=describe_weights(config_of_best.model),
        lineage_tags=tags,
        others=[
            (ray.train.Checkpoint(each.checkpoint), config_of(each)) for each in others if each.checkpoint
        ],
    )
    promote(name, version, ALIAS, uri=config.tracking.uri)
    candidate = {
        "model": name,
        "version": str(version),
        "trial": best.id,
        "checkpoint": best.checkpoint,
    }
    store.write(CANDIDATE_FILE, json.dumps(candidate))
    return candidate


def _params(sweep: SweepConfig) -> dict[str, str]:
    shown: dict[str, Any] = sweep.model_dump(
        mode="json", exclude={"name", "base", "space"}, exclude_defaults=True
    )
    spaces = {f"space.{key}": f"{d.kind} {list(d.extremes)}" for key, d in sweep.space.items()}
    return {key: str(value)[:500] for key, value in (shown | spaces).items()}
