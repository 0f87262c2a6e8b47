"""A training step never waits for the device to learn a value.

On the meta device there are no values: whatever asks for one raises.
"""

import functools

import pytest
import torch
from test_numerics_parallel import model_and_batch

from sdavs_model.accumulation import accumulated_loss
from sdavs_model.training_step import move, training_loss


def on_meta() -> tuple[torch.nn.Module, dict]:
    model, batch = model_and_batch("padded")
    del batch[
        "present"
    ]  # the number of present seconds decides sizes; `step_losses` asks for it in main memory
    return model.to("meta"), move(batch, "meta")


def test_asking_for_a_value_would_be_noticed():
    with pytest.raises((NotImplementedError, RuntimeError)):
        bool(torch.ones(1, device="meta").any())


@pytest.mark.parametrize(
    "loss", [training_loss, functools.partial(accumulated_loss, num_parts=2)], ids=["whole", "in parts"]
)
def test_forward_loss_and_backward_of_a_batch_read_no_value_from_the_device(loss):
    model, batch = on_meta()
    loss(model, batch)["loss"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
