"""bf16 keeps fp32 where small changes have to add up."""

import copy

import pytest
import torch
from test_numerics_parallel import model_and_batch
from torch import nn

from sdavs_model.encoders.batch_norm import SharedBatchNorm
from sdavs_model.precision import cast
from sdavs_model.training_step import training_loss


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), SharedBatchNorm(4)])
def test_running_statistics_in_bf16_follow_a_mean_that_drifts_slowly(norm):
    cast(norm, torch.bfloat16)
    shape = (64, 4) if isinstance(norm, SharedBatchNorm) else (8, 4, 4, 4)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = copy.deepcopy(norm.running_mean)
    for step in range(400):
        x = (10 + step / 100 + noise).bfloat16()
        norm(x)
        expected.lerp_(x.float().mean([0, *range(2, x.ndim)]), norm.momentum)
    assert norm.running_mean.dtype == norm.running_var.dtype == torch.float32
    torch.testing.assert_close(norm.running_mean, expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("backbone", ["pvt_v2_b0", "test_resnet"])
def test_a_model_in_bf16_trains_with_gradients_in_bf16(backbone):
    model, batch = model_and_batch("plain", backbone=backbone)
    expected = float(training_loss(model, batch)["loss"].detach())
    cast(model, torch.bfloat16)
    batch |= {name: batch[name].bfloat16() for name in ("frames", "log_mel")}
    losses = training_loss(model, batch)
    losses["loss"].backward()
    assert losses["loss"].dtype == torch.float32
    assert float(losses["loss"].detach()) == pytest.approx(expected, rel=0.05)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_names_of_weights_and_their_values_in_fp32_stay():
    model, _ = model_and_batch("plain", backbone="test_resnet")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cast(model, torch.bfloat16)
    cast(model, torch.float32)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value.bfloat16(), after[name].bfloat16()) for name, value in before.items())
