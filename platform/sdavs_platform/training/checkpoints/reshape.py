"""Reshards ZeRO checkpoints for another number of workers, which DeepSpeed itself refuses to load.

The shards hold weights and moments as flat vectors, one per parameter group, cut into one part per worker. Here the
parts are joined and cut again, and DeepSpeed's ordinary loader reads the result. Our choice over DeepSpeed's universal
checkpoints, for which a separate tool converts the whole checkpoint to a file per parameter and moment before every
start: this is one pass over memory-mapped shards, in each worker, only when the number has changed, and checkpoints
keep one format.
"""

from collections.abc import Callable
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdavs_platform.deepspeed_internals import (
    ALIGNMENT,
    FROZEN_FRAGMENTS,
    FROZEN_SHAPES,
    PARTITION_COUNT,
    Shapes,
    load_shard,
    model_shards,
    optimizer_shards,
    save_shard,
    shard_keys,
    shard_name,
    zero_stage_of,
)


def reshape_shards(folder: Path, out: Path, *, rank: int, world_size: int) -> None:
    """Write one worker's shards of a training that now has `world_size` workers.

    Args:
        folder: DeepSpeed's files, of any number of workers.
        out: empty folder; gets the files that the worker `rank` loads, and no other's.
    """
    model_files = model_shards(folder)
    model = load_shard(model_files[0])
    old_world_size = model["dp_world_size"]
    optimizer_files = optimizer_shards(folder)
    shards = [load_shard(path)["optimizer_state_dict"] for path in optimizer_files]
    assert len(shards) in (0, old_world_size)
    is_zero_3 = bool(shards) and zero_stage_of(shards[0]) == 3
    changed: dict[str, Any] = {"dp_world_size": world_size}
    if is_zero_3:
        parts = [load_shard(path)[FROZEN_FRAGMENTS] for path in model_files]
        changed[FROZEN_FRAGMENTS] = _recut_frozen(
            parts, model[FROZEN_SHAPES], rank=rank, world_size=world_size
        )
    save_shard(model | changed, out / shard_name(model_files[0], rank))
    if not shards:  # ZeRO-0: everything is whole, and in the model's file
        return
    recut = _recut_weights if is_zero_3 else _recut_flat
    groups: list[Shapes] = model["param_shapes"]

    def recut_all(parts_of: Callable[[dict[str, Any], int], Tensor]) -> list[Tensor]:
        return [
            recut([parts_of(shard, index) for shard in shards], shapes, rank=rank, world_size=world_size)
            for index, shapes in enumerate(groups)
        ]

    weights, optimizer = shard_keys(shards[0])
    new = dict(shards[0])
    assert len(new[weights]) == len(groups)
    is_listed = isinstance(new[PARTITION_COUNT], list)
    new[PARTITION_COUNT] = [world_size] * len(groups) if is_listed else world_size
    new[weights] = recut_all(lambda shard, index: shard[weights][index])
    states = {index: dict(state) for index, state in new[optimizer]["state"].items()}
    moments = [name for name, value in states.get(0, {}).items() if torch.is_tensor(value) and value.dim()]
    for name in moments:
        cut = recut_all(lambda shard, index, name=name: shard[optimizer]["state"][index][name])  # type: ignore[misc]
        for index, part in enumerate(cut):
            states[index][name] = part
    new[optimizer] = new[optimizer] | {"state": states}
    file = load_shard(optimizer_files[0]) | {"optimizer_state_dict": new}
    save_shard(file, out / shard_name(optimizer_files[0], rank))


def full_state_dict(folder: Path, *, zero_stage: int) -> dict[str, Tensor]:
    """The whole model in fp32, on the CPU, out of all workers' shards.

    Args:
        folder: DeepSpeed's files, of any number of workers.
        zero_stage: the stage of the training that wrote them.
    """
    models = [load_shard(path) for path in model_shards(folder)]
    model = models[0]
    module = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in model["module"].items()
    }
    if zero_stage == 0:
        return module
    shards = [load_shard(path)["optimizer_state_dict"] for path in optimizer_shards(folder)]
    key, _ = shard_keys(shards[0])
    recut = _recut_weights if zero_stage == 3 else _recut_flat
    # ZeRO-3 has parts in place of the module's weights; in half precision all stages have rounded ones.
    whole = {name: module[name] for name in (model["buffer_names"] if zero_stage == 3 else module)}
    if zero_stage == 3:
        parts = [shard[FROZEN_FRAGMENTS] for shard in models]
        whole |= {
            name: fragment.view(model[FROZEN_SHAPES][name]).float()
            for name, fragment in _recut_frozen(parts, model[FROZEN_SHAPES], rank=0, world_size=1).items()
        }
    for index, shapes in enumerate(model["param_shapes"]):
        flat = recut([shard[key][index] for shard in shards], shapes, rank=0, world_size=1)
        ends = list(accumulate(map(prod, shapes.values())))
        for (name, shape), end in zip(shapes.items(), ends, strict=True):
            whole[name] = flat[end - prod(shape) : end].view(shape)
    return whole | {alias: whole[name] for alias, name in model["shared_params"].items()}


def _recut_flat(parts: list[Tensor], shapes: Shapes, *, rank: int, world_size: int) -> Tensor:
    """ZeRO-1 and 2 cut the whole vector into equal parts; only the end is padded."""
    whole = torch.cat(parts)[: sum(map(prod, shapes.values()))]
    size = -(-len(whole) // (ALIGNMENT * world_size)) * ALIGNMENT
    return _cut(whole, size, rank)


def _recut_weights(parts: list[Tensor], shapes: Shapes, *, rank: int, world_size: int) -> Tensor:
    """ZeRO-3 cuts every parameter into equal parts; the end of each is padded."""
    offset, cut = 0, []
    for shape in shapes.values():
        length = prod(shape)
        size = -(-length // len(parts))
        whole = torch.cat([part[offset : offset + size] for part in parts])[:length]
        cut.append(_cut(whole, -(-length // world_size), rank))
        offset += size
    return torch.cat(cut)


def _recut_frozen(
    parts: list[dict[str, Tensor]], shapes: Shapes, *, rank: int, world_size: int
) -> dict[str, Tensor]:
    """Of the weights that are not trained ZeRO-3 keeps every part by name."""
    return {
        name: _recut_weights([part[name] for part in parts], {name: shape}, rank=rank, world_size=world_size)
        for name, shape in shapes.items()
    }


def _cut(whole: Tensor, size: int, rank: int) -> Tensor:
    part = whole[rank * size : (rank + 1) * size]
    return torch.cat([part, part.new_zeros(size - len(part))])
