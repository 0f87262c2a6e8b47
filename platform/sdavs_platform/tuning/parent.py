"""The sweep in MLflow: one parent run, found again by its name; the trials' runs are its children."""

from typing import Any

from mlflow.entities import Param

from sdavs_platform.config.tree import RunConfig
from sdavs_platform.tracking.client import experiment_id, mlflow_client
from sdavs_platform.tracking.runs import TrainingRun, git_commit, resolved_yaml
from sdavs_platform.tuning.store import SweepStore
from sdavs_platform.tuning.sweep import SweepConfig

SWEEP_TAG = "sdavs.sweep"
STORE_TAG = "sdavs.sweep_store"


def open_parent(sweep: SweepConfig, config: RunConfig, store: SweepStore, *, data_digest: str) -> TrainingRun:
    """The parent run: the existing one if this sweep continues, else a new one."""
    assert config.tracking.uri is not None
    client = mlflow_client(config.tracking.uri)
    experiment = experiment_id(client, config.tracking.experiment)
    found = client.search_runs([experiment], f"tags.`{STORE_TAG}` = '{store.uri}'", max_results=1)
    if found:
        run = TrainingRun(uri=config.tracking.uri, run_id=found[0].info.run_id)
        client.update_run(run.run_id, status="RUNNING")
    else:
        tags = {SWEEP_TAG: sweep.name, STORE_TAG: store.uri}
        created = client.create_run(experiment, run_name=sweep.name, tags=tags)
        run = TrainingRun(uri=config.tracking.uri, run_id=created.info.run_id)
        client.log_batch(run.run_id, params=[Param(key, value) for key, value in _params(sweep).items()])
    run.set_tags({"data_digest": data_digest, "git_commit": git_commit()})
    client.log_text(run.run_id, resolved_yaml(config), "config.yaml")
    client.log_dict(run.run_id, sweep.model_dump(mode="json"), "sweep.yaml")
    return run


def child_tags(sweep: SweepConfig, parent: TrainingRun) -> dict[str, str]:
    """What makes a trial's run a child of the sweep's."""
    return {"mlflow.parentRunId": parent.run_id, SWEEP_TAG: sweep.name}


def _params(sweep: SweepConfig) -> dict[str, str]:
    shown: dict[str, Any] = sweep.model_dump(
        mode="json", exclude={"name", "base", "space"}, exclude_defaults=True
    )
    spaces = {f"space.{key}": f"{d.kind} {list(d.extremes)}" for key, d in sweep.space.items()}
    return {key: str(value)[:500] for key, value in (shown | spaces).items()}
