"""Workers that share a batch compute what one process computes from all of it, whatever the workers' parts hold."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from running import run_processes
from torch import Tensor

from sdavs_model import SDAVS, SDAVSConfig, build_model
from sdavs_model.encoders.batch_norm import SharedBatchNorm
from sdavs_model.training_step import training_loss

pytestmark = pytest.mark.slow

# Clips of AVSBench-semantic's kinds: how many of T = 3 seconds are there, and how many have a mask.
PRESENT = (3, 2, 2, 3, 1)
VALID = (3, 1, 2, 1, 0)
KINDS = ("plain", "padded")


def model_and_batch(kind: str, *, backbone: str = "pvt_v2_b0") -> tuple[SDAVS, dict]:
    """The same in every process: five clips, all of them whole, or padded and annotated in part."""
    torch.manual_seed(0)
    config = SDAVSConfig(
        backbone=backbone, image_size=32, width=16, num_heads=2, vggish_width=0.02, num_classes=3
    )
    batch = {
        "name": list("abcde"),
        "frames": torch.randn(5, 3, 3, 32, 32),
        "log_mel": torch.randn(5, 3, 1, 96, 64),
        "masks": torch.randint(0, 3, (5, 3, 32, 32)),
    }
    if kind == "padded":
        seconds = torch.arange(3)
        batch["present"] = seconds < torch.tensor(PRESENT)[:, None]
        batch["valid"] = seconds < torch.tensor(VALID)[:, None]
    return build_model(config).train(), batch


def worker(rank: int, world_size: int, folder: str) -> None:
    """Train one part of each batch; every worker saves averaged losses and gradients, and its buffers."""
    torch.set_num_threads(1)
    store = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    part = slice(rank * 5 // world_size, (rank + 1) * 5 // world_size)
    for kind in KINDS:
        model, batch = model_and_batch(kind)
        losses = training_loss(model, {key: value[part] for key, value in batch.items()})
        losses["loss"].backward()
        averaged = {name: parameter.grad for name, parameter in model.named_parameters()}
        averaged |= {name: loss.detach() for name, loss in losses.items()}
        for value in averaged.values():
            dist.all_reduce(value)
            value /= world_size
        torch.save(
            {"averaged": averaged, "buffers": dict(model.named_buffers())}, f"{folder}/{kind}{rank}.pt"
        )
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[1, 2, 3])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    """{kind: what each worker saved}, of groups of one, two and three workers."""
    folder: Path = tmp_path_factory.mktemp("workers")
    run_processes(worker, (request.param, str(folder)), number=request.param)
    return {
        kind: [torch.load(folder / f"{kind}{rank}.pt") for rank in range(request.param)] for kind in KINDS
    }


def assert_near(actual: Tensor, expected: Tensor, name: str) -> None:
    size = expected.abs().max().clamp_min(1e-6)
    difference = (actual - expected).abs().max()
    assert difference < 1e-3 * size, f"{name}: {difference / size:.1e} of the largest value"


@pytest.mark.parametrize("kind", KINDS)
def test_losses_gradients_and_running_statistics_of_all_workers_are_those_of_one_process(shared, kind):
    model, batch = model_and_batch(kind)
    losses = training_loss(model, batch)
    losses["loss"].backward()
    averaged = shared[kind][0]["averaged"]
    for name, loss in losses.items():
        assert float(averaged[name]) == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, parameter in model.named_parameters():
        assert_near(averaged[name], parameter.grad, name)
    buffers = dict(model.named_buffers())
    assert any("running_mean" in name for name in buffers)
    for name, buffer in buffers.items():
        for saved in shared[kind]:
            torch.testing.assert_close(saved["buffers"][name], buffer, rtol=1e-5, atol=1e-6)


def test_padding_changes_neither_the_loss_nor_gradients_nor_running_statistics():
    found = []
    for scale in (0, 100):
        model, batch = model_and_batch("padded")
        padding = ~batch["present"]
        batch["frames"][padding] *= scale
        batch["log_mel"][padding] *= scale
        training_loss(model, batch)["loss"].backward()
        found.append({n: p.grad for n, p in model.named_parameters()} | dict(model.named_buffers()))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=0)


def test_the_statistics_of_a_padded_batch_are_those_of_its_seconds():
    model, batch = model_and_batch("padded")
    with torch.no_grad():
        embeddings = model.audio_encoder(batch["log_mel"][batch["present"]])
        model(batch["frames"], batch["log_mel"], batch["present"])
    momentum = model.audio_attention.centre.momentum
    torch.testing.assert_close(model.audio_attention.centre.running_mean, momentum * embeddings.mean(0))


def test_in_one_process_the_shared_batch_norm_is_torchs_own():
    torch.manual_seed(0)
    ours, theirs = SharedBatchNorm(8), torch.nn.BatchNorm1d(8)
    x = torch.randn(16, 8)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=0, atol=0)


def test_a_single_row_is_normalised_by_the_running_statistics_which_stay_as_they_are():
    norm = SharedBatchNorm(4)
    norm(torch.randn(16, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1)
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    row = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert torch.allclose(norm(row), (row - mean) / (var + norm.eps).sqrt(), atol=1e-6)
    assert torch.equal(norm.running_mean, mean)
    assert torch.equal(norm.running_var, var)
