"""The best trial of a sweep becomes a registered version, called `candidate`, that says where it comes from."""

import json

import ray.train

from sdavs_platform.config.tree import RunConfig
from sdavs_platform.tracking.registry import promote
from sdavs_platform.training.finish import finish_training
from sdavs_platform.tuning.objectives import on_a_worker
from sdavs_platform.tuning.space import with_values
from sdavs_platform.tuning.store import CANDIDATE_FILE, SweepStore
from sdavs_platform.tuning.sweep import SweepConfig, best_trial

ALIAS = "candidate"


def register_candidate(sweep: SweepConfig, config: RunConfig, store: SweepStore) -> dict[str, str] | None:
    """Register the best trial unless that was done before.

    Returns:
        {"model", "version", "trial", "checkpoint"}; None if there is nothing to register.

    Raises:
        RuntimeError: the checkpoint is incomplete, or the registry refuses.
    """
    best = best_trial(sweep, store.trials())
    name = config.tracking.registered_model
    if best is None or name is None or not sweep.register_best:
        return None
    known = store.read(CANDIDATE_FILE)
    if known and json.loads(known)["checkpoint"] == best.checkpoint:
        return json.loads(known)
    assert best.checkpoint is not None
    assert config.tracking.uri is not None
    _, version = on_a_worker(
        finish_training,
        with_values(config, best.values | {"name": best.run_name}),
        checkpoint=ray.train.Checkpoint(best.checkpoint),
        val_scores={"miou": best.best["val_miou"], "fscore": best.best["val_fscore"]},
        uri=config.tracking.uri,
        run_id=best.run_id,
        data_digest=best.data_digest,
        lineage_tags={"sweep": sweep.name, "trial": best.id},
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
