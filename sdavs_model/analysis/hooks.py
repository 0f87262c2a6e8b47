"""Inputs and outputs of chosen modules during one forward pass, recorded by hooks; the model stays unchanged."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sdavs_model.architectures.sdavs.damf import DAMF
from sdavs_model.architectures.sdavs.model import SDAVS
from sdavs_model.architectures.sdavs.snrp import SNRP


@dataclass(frozen=True)
class Call:
    """One call of a module."""

    args: tuple[Any, ...]
    output: Any


@contextmanager
def record_calls(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Call]]:
    """Record the last call of each module inside the `with` block.

    The tensors are the live ones: a gradient can be taken with respect to them.

    Args:
        modules: the modules to record, under names of the caller's choice.

    Yields:
        {name: call}, filled by the forward passes inside the block.
    """
    calls: dict[str, Call] = {}

    def hook(name: str) -> Any:
        def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            calls[name] = Call(args, output)

        return keep

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def snrp_modules(model: nn.Module) -> dict[str, SNRP]:
    """The SNRP of every level of an `SDAVS`; level "1" is the largest.

    Raises:
        ValueError: the model was built without SNRP, or is of another architecture.
    """
    return _of_levels(model, "snrp", ablation="ablation.snrp: none")


def damf_modules(model: nn.Module) -> dict[str, DAMF]:
    """The DAMF of every level of an `SDAVS`; level "1" is the largest.

    Raises:
        ValueError: the model was built without DAMF, or is of another architecture.
    """
    return _of_levels(model, "damf", ablation="ablation.damf: false")


def feature_norm(features: Tensor) -> Tensor:
    """Euclidean norm of the feature vector at each position: [..., C, H, W] -> [..., H, W]."""
    return features.float().norm(dim=-3)


def sounding_logits(logits: Tensor) -> Tensor:
    """Logits of "sounds at all": [B, T, K, H, W] -> [B, T, H, W].

    For a semantic model these are the log-odds of all classes against the background.
    """
    if logits.shape[2] == 1:
        return logits[:, :, 0]
    return logits[:, :, 1:].logsumexp(2) - logits[:, :, 0]


def _of_levels(model: nn.Module, part: str, *, ablation: str) -> dict[str, Any]:
    """An attribute of every `Level` of an `SDAVS`; `ablation` is the setting that leaves it out."""
    if not isinstance(model, SDAVS):
        raise ValueError(f"{type(model).__name__} has no {part.upper()} to analyse")
    parts = {str(number): getattr(level, part) for number, level in enumerate(model.levels, 1)}
    if None in parts.values():
        raise ValueError(f"this model has no {part.upper()} to analyse ({ablation})")
    return parts
