"""Resume a worker group from the newest checkpoint that every worker has verified as complete."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray.train
import torch.distributed as dist

from sdavs_platform.training.checkpoints.checkpoint import (
    LoopState,
    UnsentMetrics,
    load_checkpoint,
    verify_complete,
)
from sdavs_platform.training.checkpoints.listing import own_checkpoints

logger = logging.getLogger(__name__)


def resume(engine: Any, *, start_from: str | None) -> tuple[LoopState, UnsentMetrics] | None:
    """Load the newest complete checkpoint of this training, else another training's; all workers call it together.

    Args:
        start_from: checkpoint of another training for one that has none yet; its own learning rates stay.

    Returns:
        See `load_checkpoint`; None if there is nothing to resume from.

    Raises:
        ValueError: there are checkpoints, and none is complete; says what is wrong with the newest.
    """
    rank = ray.train.get_context().get_world_rank()
    faults = []
    for checkpoint in own_checkpoints():
        with checkpoint.as_directory() as folder:
            saved_world_size, fault = _verified(Path(folder))
            if fault is None:
                return load_checkpoint(
                    Path(folder), engine=engine, rank=rank, saved_world_size=saved_world_size
                )
        faults.append(fault)
        logger.info("skipping %s: %s", Path(checkpoint.path).name, fault)
    if faults:
        raise ValueError(faults[0])
    if start_from is None:
        return None
    with ray.train.Checkpoint(start_from).as_directory() as folder, _keeping_hyperparameters(engine):
        saved_world_size, fault = _verified(Path(folder))
        if fault:
            raise ValueError(fault)
        state, _ = load_checkpoint(Path(folder), engine=engine, rank=rank, saved_world_size=saved_world_size)
        # What that training has not sent yet belongs into its own run.
        return state, UnsentMetrics()


@contextlib.contextmanager
def _keeping_hyperparameters(engine: Any) -> Iterator[None]:
    """Context manager for loading another training's checkpoint: its weights and moments, our rates and decay."""
    own = [
        {key: group[key] for key in ("initial_lr", "weight_decay", "betas")}
        for group in engine.optimizer.param_groups
    ]
    yield
    for group, kept in zip(engine.optimizer.param_groups, own, strict=True):
        group.update(kept, lr=kept["initial_lr"] * group["lr"] / group["initial_lr"])
    engine.lr_scheduler.base_lrs = [kept["initial_lr"] for kept in own]


def _verified(folder: Path) -> tuple[int, str | None]:
    """The number of workers that wrote it, and what any worker finds wrong with it.

    Every node has its own copy. Its workers share the reading, so that each byte is read once per node.
    """
    context = ray.train.get_context()
    local_rank, local_size = context.get_local_rank(), context.get_local_world_size()
    world_size, fault = 0, None
    try:
        world_size = verify_complete(folder, is_read=lambda rank: rank % local_size == local_rank)
    except ValueError as error:
        fault = str(error)
    found: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, fault)
    return world_size, next(filter(None, found), None)
