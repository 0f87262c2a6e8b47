"""The learning-rate schedule, relative to the peak rate: a closed form, so that a resume is exact."""

import math
from collections.abc import Callable

from sdavs_platform.config.tree import OptimizerConfig


def lr_factor(step: int, *, progress: float, config: OptimizerConfig) -> float:
    """The learning rate of a step, counted from 0: linear warm-up times the decay of `optimizer.schedule`.

    Args:
        progress: as for `decay`.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    return warmup * decay(progress, config)


def decay(progress: float, config: OptimizerConfig) -> float:
    """The learning rate relative to the peak, without warm-up.

    Args:
        progress: fraction of the training that is done; above 1 the rate stays where it ended.
    """
    final = config.final_lr_factor
    return final + (1 - final) * _SHAPES[config.schedule](min(progress, 1.0), config)


def _multi_step(progress: float, config: OptimizerConfig) -> float:
    return config.gamma ** sum(progress >= milestone for milestone in config.milestones)


def _cosine(progress: float, config: OptimizerConfig) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def _poly(progress: float, config: OptimizerConfig) -> float:
    return (1 - progress) ** config.poly_power


def _constant(progress: float, config: OptimizerConfig) -> float:
    return 1.0


_SHAPES: dict[str, Callable[[float, OptimizerConfig], float]] = {
    "multi_step": _multi_step,
    "cosine": _cosine,
    "poly": _poly,
    "constant": _constant,
}
