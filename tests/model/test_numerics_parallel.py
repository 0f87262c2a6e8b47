"""Two workers that share a batch compute what one process computes from all of it."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from sdavs_model import SDAVS, SDAVSConfig, build_model
from sdavs_model.encoders.batch_norm import SharedBatchNorm
from sdavs_model.engine import training_loss

pytestmark = pytest.mark.slow

NUM_WORKERS = 2


def model_and_batch() -> tuple[SDAVS, dict]:
    """The same in every process."""
    torch.manual_seed(0)
    config = SDAVSConfig(backbone="pvt_v2_b0", image_size=32, width=16, num_heads=2, vggish_width=0.02)
    frames, log_mel = torch.randn(4, 2, 3, 32, 32), torch.randn(4, 2, 1, 96, 64)
    masks = (torch.rand(4, 2, 32, 32) > 0.5).long()
    batch = {"name": list("abcd"), "frames": frames, "log_mel": log_mel, "masks": masks}
    return build_model(config).train(), batch


def worker(rank: int, folder: str) -> None:
    """Train one half of the batch; every worker saves averaged gradients and its buffers."""
    torch.set_num_threads(1)
    store = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=NUM_WORKERS)
    model, batch = model_and_batch()
    half = {key: value[2 * rank : 2 * rank + 2] for key, value in batch.items()}
    training_loss(model, half)["loss"].backward()
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= NUM_WORKERS
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.save({"gradients": gradients, "buffers": dict(model.named_buffers())}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Gradients and buffers of both workers."""
    folder: Path = tmp_path_factory.mktemp("workers")
    torch.multiprocessing.spawn(worker, args=(str(folder),), nprocs=NUM_WORKERS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(NUM_WORKERS)]


def test_two_workers_gradients_and_running_statistics_are_those_of_one_process(shared):
    model, batch = model_and_batch()
    training_loss(model, batch)["loss"].backward()
    for name, parameter in model.named_parameters():
        size = parameter.grad.abs().max().clamp_min(1e-6)
        difference = (shared[0]["gradients"][name] - parameter.grad).abs().max()
        assert difference < 1e-3 * size, f"{name}: {difference / size:.1e} of its largest gradient"
    buffers = dict(model.named_buffers())
    assert any("running_mean" in name for name in buffers)
    for name, buffer in buffers.items():
        torch.testing.assert_close(shared[0]["buffers"][name], buffer, rtol=1e-5, atol=1e-6)
        assert torch.equal(shared[0]["buffers"][name], shared[1]["buffers"][name]), name


def test_in_one_process_the_shared_batch_norm_is_torchs_own():
    torch.manual_seed(0)
    ours, theirs = SharedBatchNorm(8), torch.nn.BatchNorm1d(8)
    x = torch.randn(16, 8)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=0, atol=0)
