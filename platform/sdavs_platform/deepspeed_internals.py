"""Undocumented parts of DeepSpeed that this project uses, as read in DeepSpeed 0.19.8.

Most of it is the layout of the shards in a checkpoint. Each function has a test in
tests/platform/test_deepspeed_internals.py: an upgrade of DeepSpeed that breaks one fails there and is repaired here.
"""

import logging
import math
import pickle
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils._pytree import tree_map_only

from sdavs_platform.state_files import read_state, write_state

Shapes = Mapping[str, Sequence[int]]
"""Shapes of the parameters of a parameter group, by name, in the order of the group's flat vector."""

FROZEN_SHAPES, FROZEN_FRAGMENTS = "frozen_param_shapes", "frozen_param_fragments"
"""Keys of a model shard: of weights that are not trained, by name. ZeRO-3 cuts each into one part per worker, as it
cuts trained ones; ZeRO-2 has them whole, and the other stages keep them with the rest of the model only."""

PARTITION_COUNT = "partition_count"
"""Key of an optimizer shard: the number of workers, in ZeRO-1 and 2 as a list with one for each parameter group."""

_SUFFIX, _PICKLE_SUFFIX = ".safetensors", ".pt"
"""File suffixes of shards, and of the shards of earlier versions."""

ALIGNMENT = 2
"""ZeRO-1 and 2 cut a flat vector where every part is a whole number of 4 bytes of a 2-byte format."""


def log_only(level: int) -> None:
    """Let DeepSpeed log to standard output from this level; it begins with INFO."""
    logging.getLogger("DeepSpeed").setLevel(level)


def import_deepspeed() -> Any:
    """DeepSpeed without MLflow: its autotuner would import that for itself, a second and more in every worker."""
    is_hidden = "mlflow" not in sys.modules
    if is_hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]  # Python's way to say that there is none
    try:
        import deepspeed
    finally:
        if is_hidden:
            del sys.modules["mlflow"]
    return deepspeed


def skip_compiled_collective() -> None:
    """Let DeepSpeed on CPUs use gloo. Call before `deepspeed.initialize`.

    It would compile a shared-memory collective of its own: a minute on a machine with a compiler, an error on one
    without. No setting turns that off; an operation that is not listed as compatible is not built.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {}


def skip_compiled_muon() -> None:
    """Let DeepSpeed leave Muon, an optimizer that nothing here uses, uncompiled. Call before `deepspeed.initialize`.

    Every engine imports it to see whether the optimizer is one, and to mark its functions for compilation imports
    torch's compiler: about four seconds of CPU time in every worker.
    """
    from deepspeed.runtime import compiler

    kept = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator
    try:
        import deepspeed.runtime.zero.muon.original_muon  # noqa: F401
    finally:
        compiler.compile = kept


def loss_scale(engine: Any) -> float:
    """The factor of the loss; 1 except in fp16. The plain optimizer of ZeRO-0 in fp32 has none."""
    return float(getattr(engine.optimizer, "loss_scale", 1.0))


def apply_gradients(engine: Any) -> tuple[bool, float]:
    """`engine.step()`, which skips gradients that are not finite, in all stages and formats alike.

    DeepSpeed does not skip in ZeRO-0 with fp32, where it also computes no norm, and forgets the schedule when it skips.

    Returns:
        Whether the gradients were finite, and their norm over all weights before clipping.
    """
    if not hasattr(engine.optimizer, "overflow"):  # the plain optimizer of ZeRO-0 with fp32
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if math.isfinite(norm):
            engine.step()
            return True, norm
        # Without gradients the optimizer changes nothing, and the schedule advances; DeepSpeed's clipping needs some.
        engine.zero_grad()
        limit, engine._config.gradient_clipping = engine._config.gradient_clipping, 0.0
        engine.step()
        engine._config.gradient_clipping = limit
        return False, norm
    engine.step()
    if not engine.was_step_applied():
        engine.lr_scheduler.step()
        return False, math.inf
    return True, float(engine.get_global_grad_norm())


NORM_CHUNK = 2**16
"""Numbers that are converted to fp64 at a time for a norm: a copy of all gradients would not stay in a CPU's cache."""


class _FlatGradients(list):
    """A worker's part of a group's gradients as one vector, by the attribute in which DeepSpeed looks for one."""

    def __init__(self, flat_partition: torch.Tensor) -> None:
        super().__init__(flat_partition.split(NORM_CHUNK))
        self.flat_partition = flat_partition


def reduce_at_once(engine: Any) -> bool:
    """Let ZeRO-1 and 2 in fp32 take the gradients of all weights together. Call after `deepspeed.initialize`.

    DeepSpeed handles each weight's gradient in Python, in hooks of the backward pass and again behind it, which takes
    long for hundreds of weights on a CPU. It does so in order to reduce while the backward pass runs, but where all
    gradients fit into one of its buckets it reduces them at the end like this function, to the same values.

    Returns:
        False if the engine stays as it is: other stages and number formats, offloaded states, more gradients than a
        bucket.
    """
    optimizer = engine.optimizer
    if (
        not hasattr(optimizer, "single_partition_of_fp32_groups")
        or optimizer.dtype != torch.float32
        or optimizer.cpu_offload
        or sum(flat.numel() for flat in optimizer.bit16_groups_flat) > optimizer.reduce_bucket_size
    ):
        return False
    for hook in optimizer._grad_acc_hooks:
        hook.remove()
    group = optimizer.dp_process_group
    rank, world_size = dist.get_rank(group), dist.get_world_size(group)
    wholes = [torch.zeros_like(flat) for flat in optimizer.bit16_groups_flat]
    layouts = [
        [(whole[start : start + weight.numel()].view(weight.shape), weight) for start, weight in laid_out]
        for whole, laid_out in zip(wholes, _weights_in(optimizer), strict=True)
    ]

    @torch.no_grad()
    def reduce(**options: Any) -> None:
        for index, (whole, layout) in enumerate(zip(wholes, layouts, strict=True)):
            missing = [part for part, weight in layout if weight.grad is None]
            if missing:
                torch._foreach_zero_(missing)
            found = [(part, weight.grad) for part, weight in layout if weight.grad is not None]
            if found:
                torch._foreach_copy_([part for part, _ in found], [gradient for _, gradient in found])
            for _, weight in layout:
                weight.grad = None
            parts = whole.split(int(optimizer.partition_size[index]))
            if world_size > 1:
                whole.div_(world_size)
                for owner, part in enumerate(parts):
                    dist.reduce(part, dist.get_global_rank(group, owner), group=group)
            optimizer.averaged_gradients[index] = _FlatGradients(parts[rank])

    def norm(gradients: Any, params: Any, norm_type: float = 2) -> torch.Tensor:
        squares = torch.stack([torch.linalg.vector_norm(part.double()) for part in gradients]).square()
        total = squares.sum().float()
        dist.all_reduce(total, group=group)
        return total.sqrt()  # what is not finite stays so, and DeepSpeed then skips the step

    link = optimizer._update_model_bit16_weights

    def link_weights(index: int) -> None:
        """DeepSpeed makes every weight a view of the flat vector after each step, and they are already."""
        start = optimizer.bit16_groups_flat[index].data_ptr()
        if any(
            weight.data_ptr() != start + offset * weight.element_size()
            for offset, weight in _weights_in(optimizer)[index]
        ):
            link(index)

    optimizer.overlapping_partition_gradients_reduce_epilogue = reduce  # ZeRO-2
    optimizer.reduce_gradients = reduce  # ZeRO-1
    optimizer.get_grad_norm_direct = norm
    optimizer._update_model_bit16_weights = link_weights
    return True


def _weights_in(optimizer: Any) -> list[list[tuple[int, nn.Parameter]]]:
    """For each parameter group of ZeRO-1 or 2 its weights, and where each begins in the group's flat vector."""
    return [
        [*zip(offsets, weights, strict=True)]
        for offsets, weights in zip(
            optimizer.round_robin_bit16_offsets, optimizer.round_robin_bit16_groups, strict=True
        )
    ]


@torch.no_grad()
def gather_weights(module: nn.Module, *, into: nn.Module) -> None:
    """Copy the weights that ZeRO-3 has spread over the workers, and the buffers; all workers call it together.

    Args:
        module: the engine's.
        into: a replica of it, not the engine's.
    """
    import deepspeed

    for spread, whole in zip(module.parameters(), into.parameters(), strict=True):
        with deepspeed.zero.GatheredParameters(spread):
            whole.copy_(spread)
    for own, copied in zip(module.buffers(), into.buffers(), strict=True):
        copied.copy_(own)


@torch.no_grad()
def whole_states(engine: Any, name: str) -> dict[str, torch.Tensor]:
    """A state of the optimizer by parameter, put together from all workers, who call it together; for ZeRO-0 to 2.

    Args:
        name: a state with one value a weight, such as "exp_avg".

    Returns:
        Parameters that have no such state yet are left out.
    """
    names = {id(parameter): key for key, parameter in engine.module.named_parameters()}
    if not hasattr(engine.optimizer, "single_partition_of_fp32_groups"):  # ZeRO-0 with fp32
        states = engine.optimizer.state
        return {
            names[id(parameter)]: state[name].float() for parameter, state in states.items() if name in state
        }
    whole = {}
    optimizer = engine.optimizer
    for part, parameters in zip(
        optimizer.single_partition_of_fp32_groups, optimizer.round_robin_bit16_groups, strict=True
    ):
        state = optimizer.optimizer.state[part]
        if name not in state:
            continue
        # On the device of the weights, where the workers' group communicates; offloaded states lie elsewhere.
        own = state[name].to(engine.device)
        parts = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, own)
        flat, offset = torch.cat(parts), 0
        for parameter in parameters:
            values = flat[offset : offset + parameter.numel()]
            whole[names[id(parameter)]] = values.view(parameter.shape)
            offset += parameter.numel()
    return whole


def save_shards(engine: Any, folder: Path, *, tag: str) -> None:
    """Write this worker's shards below `folder/tag`, as safetensors; all workers call it together."""
    _use_state_files(engine)
    engine.save_checkpoint(str(folder), tag=tag, save_latest=False)
    for name in ("zero_to_fp32.py", "zero_to_torch.py"):  # DeepSpeed's own scripts, which read its own files
        (folder / name).unlink(missing_ok=True)


def load_shards(engine: Any, folder: Path, *, tag: str) -> None:
    """Restore the engine from shards of as many workers; reads those that DeepSpeed itself has written, too."""
    _use_state_files(engine)
    # It looks for the file of weights by a pattern of its own names.
    engine._get_all_ckpt_names = lambda folder, tag: [
        str(_existing(Path(engine._get_ckpt_name(folder, tag))))
    ]
    engine.load_checkpoint(str(folder), tag=tag)


def _use_state_files(engine: Any) -> None:
    """Let DeepSpeed write and read `state_files` where it would pickle."""
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

    class StateFiles(TorchCheckpointEngine):
        def save(self, state_dict: Any, path: str) -> None:
            save_shard(state_dict, Path(path))

        def load(self, path: str, map_location: Any = None) -> Any:
            # Into memory: the optimizer changes these in place, so they must not be mapped from a file.
            return tree_map_only(torch.Tensor, torch.clone, load_shard(Path(path)))

    if type(engine.checkpoint_engine).__name__ != StateFiles.__name__:
        engine.checkpoint_engine = StateFiles(engine._config)


def model_shards(folder: Path) -> list[Path]:
    """Files of weights and buffers, by worker; a single one where all workers have the same."""
    return _shards(folder, "model_states")


def optimizer_shards(folder: Path) -> list[Path]:
    """Files of fp32 weights and optimizer states, by worker; none of ZeRO-0, which keeps them with the model."""
    return _shards(folder, "optim_states")


def _shards(folder: Path, kind: str) -> list[Path]:
    found = [path for path in folder.glob(f"*{kind}.*") if path.suffix in (_SUFFIX, _PICKLE_SUFFIX)]
    return sorted(found, key=_rank)


def shard_name(first: Path, rank: int) -> str:
    """The name of a worker's file, given the first worker's."""
    return first.name.replace("pp_rank_0_", f"pp_rank_{rank}_")


def save_shard(state: Any, path: Path) -> None:
    """Write a shard as safetensors, under the name that DeepSpeed or an earlier version gave it."""
    write_state(state, path.with_suffix(_SUFFIX), classes=_shard_classes())


def load_shard(path: Path) -> dict[str, Any]:
    """A shard, on the CPU wherever it was written. Of an earlier version's pickles only tensors, plain values and the
    classes are read that DeepSpeed's shards need.

    Raises:
        ValueError: it holds anything else.
    """
    path = _existing(path)
    if path.suffix == _SUFFIX:
        return read_state(path, classes=_shard_classes())
    from deepspeed.runtime.zero.config import ZeroStageEnum

    try:
        with torch.serialization.safe_globals([*_shard_classes(), ZeroStageEnum]):
            return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: refused; a pickle of more than tensors, plain values and DeepSpeed's own classes"
        ) from error


def _shard_classes() -> list[type]:
    """Of the objects in DeepSpeed's states."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.utils.tensor_fragment import fragment_address

    return [LossScaler, DynamicLossScaler, fragment_address]


def _existing(path: Path) -> Path:
    """A shard by DeepSpeed's name, in the format in which it was written."""
    file = path.with_suffix(_SUFFIX)
    return file if file.is_file() else path.with_suffix(_PICKLE_SUFFIX)


def shard_keys(optimizer_state: Mapping[str, Any]) -> tuple[str, str]:
    """Where an optimizer shard keeps its fp32 weights and the optimizer's own state."""
    if zero_stage_of(optimizer_state) == 3:
        return "fp32_flat_groups", "optimizer_state_dict"
    return "single_partition_of_fp32_groups", "base_optimizer_state"


def zero_stage_of(optimizer_state: Mapping[str, Any]) -> int:
    """The ZeRO stage that wrote an optimizer shard."""
    return int(optimizer_state["zero_stage"])


def _rank(path: Path) -> int:
    """zero_pp_rank_7_mp_rank_00_optim_states.pt -> 7; mp_rank_00_model_states.pt -> 0."""
    return int(path.name.partition("pp_rank_")[2].partition("_")[0] or 0)
