"""A batch computed in parts has the loss, the gradients and the running statistics of the undivided batch."""

import functools
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from test_numerics_parallel import KINDS, assert_near, model_and_batch

from sdavs_model.accumulation import accumulated_loss
from sdavs_model.training_step import training_loss


@functools.cache
def undivided(kind: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The model after the backward pass of the whole batch, and the losses."""
    model, batch = model_and_batch(kind)
    losses = training_loss(model, batch)
    losses["loss"].backward()
    return model, {name: loss.detach() for name, loss in losses.items()}


def assert_same_as_undivided(kind: str, found: dict, buffers: dict) -> None:
    """`found`: losses and gradients by name."""
    model, losses = undivided(kind)
    for name, loss in losses.items():
        assert float(found[name]) == pytest.approx(float(loss), rel=1e-5)
    for name, parameter in model.named_parameters():
        assert_near(found[name], parameter.grad, name)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffers[name], buffer, rtol=1e-5, atol=1e-6)


def backward(model: torch.nn.Module, batch: dict, *, num_parts: int) -> dict[str, torch.Tensor]:
    losses = accumulated_loss(model, batch, num_parts=num_parts)
    losses["loss"].backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return gradients | {name: loss.detach() for name, loss in losses.items()}


@pytest.mark.parametrize("num_parts", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_batch_have_together_the_loss_and_gradients_of_the_whole(kind, num_parts):
    model, batch = model_and_batch(kind)
    found = backward(model, batch, num_parts=num_parts)
    assert_same_as_undivided(kind, found, dict(model.named_buffers()))


def test_gradients_reach_each_parameter_once_so_that_workers_reduce_them_once():
    model, batch = model_and_batch("padded")
    calls: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda _, name=name: calls.__setitem__(name, calls.get(name, 0) + 1)
        )
    backward(model, batch, num_parts=3)
    assert set(calls) == {name for name, _ in model.named_parameters()}
    assert set(calls.values()) == {1}


def _worker(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    part = slice(rank * 5 // world_size, (rank + 1) * 5 // world_size)
    model, batch = model_and_batch("padded")
    averaged = backward(model, {key: value[part] for key, value in batch.items()}, num_parts=2)
    for value in averaged.values():
        dist.all_reduce(value)
        value /= world_size
    torch.save((averaged, dict(model.named_buffers())), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_that_divide_their_uneven_parts_of_a_batch_compute_what_one_process_does(tmp_path: Path):
    torch.multiprocessing.spawn(_worker, args=(2, str(tmp_path)), nprocs=2)
    for rank in range(2):
        assert_same_as_undivided("padded", *torch.load(tmp_path / f"{rank}.pt"))


@pytest.mark.parametrize("backbone", ["pvt_v2_b0", "test_resnet"])
def test_recomputed_activations_have_the_gradients_of_kept_ones(backbone):
    found = []
    for recomputes in (False, True):
        model, batch = model_and_batch("padded", backbone=backbone)
        if recomputes:
            model.checkpoint_activations()
        losses = training_loss(model, batch)
        losses["loss"].backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(found[1][name].equal(gradient) for name, gradient in found[0].items())
