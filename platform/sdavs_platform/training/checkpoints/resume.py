"""From which checkpoint a worker group goes on: the newest one that is whole for every worker."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
import torch.distributed as dist

from sdavs_platform.training.checkpoints.checkpoint import LoopState, Untold, load_checkpoint
from sdavs_platform.training.checkpoints.listing import own_checkpoints
from sdavs_platform.training.checkpoints.manifest import verify_complete
from sdavs_platform.training.engine import keeping_hyperparameters


def resume(
    engine: Any, *, start_from: str | None, say: Callable[[str], None]
) -> tuple[LoopState, Untold] | None:
    """Load the newest whole checkpoint of this training, else another training's; all workers call it together.

    Args:
        start_from: checkpoint of another training for one that has none yet; its own learning rates stay.
        say: told once of every checkpoint that is passed over.

    Returns:
        See `load_checkpoint`; None if there is nothing to go on from.

    Raises:
        ValueError: there are checkpoints, and none is whole; names the newest one's fault.
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
        say(f"passing over {Path(checkpoint.path).name}: {fault}")
    if faults:
        raise ValueError(faults[0])
    if start_from is None:
        return None
    with ray.train.Checkpoint(start_from).as_directory() as folder, keeping_hyperparameters(engine):
        saved_world_size, fault = _verified(Path(folder))
        if fault:
            raise ValueError(fault)
        state, _ = load_checkpoint(Path(folder), engine=engine, rank=rank, saved_world_size=saved_world_size)
        # What that training has not told yet belongs into its own run.
        return state, Untold()


def _verified(folder: Path) -> tuple[int, str | None]:
    """The number of workers that wrote it, and what any worker finds wrong with it.

    Every node has a copy of its own. Its workers share the reading, so that each byte is read once per node.
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
