"""The finished checkpoints of a training: Ray Train lists one only when every worker's part has arrived."""

from typing import Any

import ray.train

from sdavs_platform.ray_internals import CHECKPOINT_LIST, keep_newest_checkpoints
from sdavs_platform.storage.filesystem import Storage

UNSCORED = -1.0
"""J, and the score that checkpoints are chosen by, in the report of a checkpoint between validations: below every real
score, so that it is kept only while it is among the newest."""


def has_checkpoints(uri: str, name: str, *, field: str = "storage.uri") -> bool:
    """Whether a training of this name has left checkpoints at `uri`; `field` names that address in errors.

    Raises:
        ValueError: the storage cannot be reached, or has no such bucket.
    """
    storage = Storage(uri, field=field)
    storage.require()
    return storage.exists(f"{name}/{CHECKPOINT_LIST}")


def checkpoint_address(storage: str, name: str, path: str) -> str:
    """The address of a checkpoint of the training `name`, with the scheme that Ray Train leaves out of `path`."""
    return f"{storage.rstrip('/')}/{name}/{path.rsplit('/', 1)[-1]}"


def best_checkpoint(
    trained: ray.train.Result, *, criterion: str
) -> tuple[ray.train.Checkpoint, dict[str, Any]]:
    """The checkpoint with the highest validation score, and what was reported with it.

    Of equals the one reported last: it may replace one that was found damaged.

    Args:
        criterion: the score's name, see `TrainingConfig.criterion`.
    """
    assert trained.best_checkpoints is not None
    return max(reversed(trained.best_checkpoints), key=lambda one: one[1].get(f"val_{criterion}", UNSCORED))


def own_checkpoints() -> list[ray.train.Checkpoint]:
    """In a worker: the checkpoints of its training, newest first."""
    reported = ray.train.get_all_reported_checkpoints()
    return [
        one.checkpoint for one in sorted(reported, key=lambda one: one.metrics.get("step", 0), reverse=True)
    ]


def await_checkpoint() -> None:
    """In a worker: wait until the checkpoint that all workers have reported last is valid."""
    ray.train.get_all_reported_checkpoints(consistency_mode=ray.train.CheckpointConsistencyMode.COMMITTED)


class KeepNewest(ray.train.UserCallback):
    """Keeps the newest two checkpoints in addition to the best ones, so that little is lost if one is damaged."""

    NUMBER = 2

    def __reduce__(self) -> Any:
        # Ray Train's controller gets its callbacks pickled, before it lists the first checkpoint.
        return _keeping_newest, ()


def _keeping_newest() -> KeepNewest:
    keep_newest_checkpoints(KeepNewest.NUMBER)
    return KeepNewest()


class ValidationsOnly(ray.train.UserCallback):
    """Passes on the reports of validations; those of other checkpoints have no score.

    Args:
        callback: another callback of the controller.
    """

    def __init__(self, callback: ray.train.UserCallback) -> None:
        self._callback = callback

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """See `ray.train.UserCallback`."""
        if metrics[0]["val_miou"] != UNSCORED:
            self._callback.after_report(run_context, metrics, checkpoint)
