"""Losses are looked at once an interval, and the step and clips of the first one that is not finite are named."""

import pytest
import torch
from sdavs_platform.training.checkpoints.checkpoint import LoopState
from sdavs_platform.training.loop import Worker


def worker(losses: list[float], names: list[list[str]]) -> Worker:
    """At step 20, with the losses since the last log line, the first of which may be of a checkpoint's."""
    made = object.__new__(Worker)
    made.state = LoopState(step=20)
    made.losses = [{"loss": torch.tensor(loss)} for loss in losses]
    made.names = names
    return made


def test_finite_losses_pass():
    worker([0.5, 0.4], [["a"], ["b"]])._require_finite_losses()
    worker([], [])._require_finite_losses()


def test_the_first_loss_that_is_not_finite_is_named_with_its_step_and_clips():
    losses = [0.5, 0.4, float("nan"), float("inf")]
    with pytest.raises(FloatingPointError, match=r"step 19: the loss is nan on clips c, d$"):
        worker(losses, [["b"], ["c", "d"], ["e"]])._require_finite_losses()
