"""What chosen modules of a model take and give during one forward pass, without a change to the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sdavs_model.model import SDAVS, Level


@dataclass(frozen=True)
class Call:
    """One call of a module."""

    args: tuple[Any, ...]
    output: Any


@contextmanager
def record(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Call]]:
    """Record the last call of each module while the block runs.

    The tensors are the live ones: a gradient can be taken with respect to them.

    Args:
        modules: what to listen to, under names of the caller's choice.

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


def levels(model: SDAVS) -> list[Level]:
    """The model's four levels, largest map first."""
    found = list(model.levels)
    assert all(isinstance(level, Level) for level in found)
    return found  # type: ignore[return-value]


def snrp_modules(model: SDAVS) -> dict[str, nn.Module]:
    """{"1": SNRP of the largest level, ...}.

    Raises:
        ValueError: the model was built without SNRP.
    """
    if model.config.ablation.snrp == "none":
        raise ValueError("ablation.snrp is 'none': this model has no SNRP to look into")
    return {str(number): _present(level.snrp) for number, level in enumerate(levels(model), 1)}


def damf_modules(model: SDAVS) -> dict[str, nn.Module]:
    """{"1": DAMF of the largest level, ...}.

    Raises:
        ValueError: the model was built without DAMF.
    """
    if not model.config.ablation.damf:
        raise ValueError("ablation.damf is false: this model has no DAMF to look into")
    return {str(number): _present(level.damf) for number, level in enumerate(levels(model), 1)}


def response(features: Tensor) -> Tensor:
    """How strongly each position responds: the length of its feature vector. [..., C, H, W] -> [..., H, W]."""
    return features.float().norm(dim=-3)


def sounding_logits(logits: Tensor) -> Tensor:
    """The logit of "sounds at all": [B, T, K, H, W] -> [B, T, H, W].

    For a semantic model it is the log-odds of all classes against the background.
    """
    if logits.shape[2] == 1:
        return logits[:, :, 0]
    return logits[:, :, 1:].logsumexp(2) - logits[:, :, 0]


def _present(module: nn.Module | None) -> nn.Module:
    assert module is not None
    return module
