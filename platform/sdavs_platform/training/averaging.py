"""Exponential moving average of the weights (`training.ema`), which is scored and exported instead of the weights."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from sdavs_platform.deepspeed_internals import whole_states

STATE = "average"
"""Its name among the optimizer's states; there it is partitioned, saved, resumed and resharded like AdamW's moments."""


def keep_average(optimizer: torch.optim.Optimizer, *, decay: float) -> None:
    """Let each step of the optimizer also update the average: a <- d a + (1 - d) w, in fp32 as its weights.

    d is `decay`, or (1 + n) / (10 + n) in step n while that is less, so that the average of a short training does not
    remember the initial weights (TensorFlow's ExponentialMovingAverage, `num_updates`).
    """

    @torch.no_grad()
    def update(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for weights in group["params"]:
                if weights.grad is None:
                    continue  # the step did not change them
                state = optimizer.state[weights]
                if STATE not in state:
                    state[STATE] = weights.detach().clone()
                num_steps = state["step"]
                fresh = 1 - ((1 + num_steps) / (10 + num_steps)).clamp(max=decay)
                state[STATE].lerp_(weights, fresh.to(device=weights.device, dtype=weights.dtype))

    optimizer.register_step_post_hook(update)


@contextlib.contextmanager
def averaged(engine: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Context manager that puts the averaged weights into the engine's module; yields them whole, in fp32, by name.

    Afterwards it has its own again, to the last bit. All workers call this together. Before the first step there is no
    average, and the weights stay as they are.
    """
    weights = whole_states(engine, STATE)
    own = {name: parameter for name, parameter in engine.module.named_parameters() if parameter.requires_grad}
    before = {name: own[name].detach().clone() for name in weights}
    with torch.no_grad():
        for name, average in weights.items():
            own[name].copy_(average)
    try:
        yield weights
    finally:
        with torch.no_grad():
            for name, value in before.items():
                own[name].copy_(value)
