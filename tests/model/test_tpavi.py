"""TPAVI's interaction computes what the paper writes, and the model has the published size."""

import pytest
import torch

from sdavs_model import budgets
from sdavs_model.architectures.tpavi.model import Interaction
from sdavs_model.architectures.tpavi.recipes import BASE
from sdavs_model.benchmark import cost


def written_out(block: Interaction, video: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
    """One clip [1, T, C, H, W], every pixel of every second attending to every other one, as in the paper."""
    _, T, C, H, W = video.shape
    audio = block.align(embeddings)[0, :, :, None, None].expand(T, C, H, W)
    theta, g = (convolution(video[0]).movedim(1, -1).flatten(0, 2) for convolution in (block.theta, block.g))
    phi = block.phi(audio.movedim(1, -1)).flatten(0, 2)
    mixed = (theta @ phi.T / (T * H * W)) @ g  # [T * H * W, C / 2]
    mixed = mixed.view(T, H, W, C // 2).movedim(-1, 1)
    out = video[0] + block.mu_norm(block.mu(mixed))
    return block.norm(out.movedim(1, -1)).movedim(-1, 1)[None]


def made_up(T: int) -> tuple[Interaction, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    block = Interaction(width=8, embedding=5)
    torch.nn.init.ones_(block.mu_norm.weight)
    return block, torch.randn(2, T, 8, 3, 4), torch.randn(2, T, 5)


def test_the_linear_form_is_the_attention_that_the_paper_writes():
    block, video, embeddings = made_up(3)
    with torch.no_grad():
        found = block(video, embeddings)
        expected = torch.cat([written_out(block, video[i : i + 1], embeddings[i : i + 1]) for i in (0, 1)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_padding_does_not_affect_it():
    block, video, embeddings = made_up(3)
    present = torch.tensor([[True, True, True], [True, True, False]])
    video, embeddings = video * present[..., None, None, None], embeddings * present[..., None]
    with torch.no_grad():
        # The padding of a map holds what the convolutions' biases make of zeros, which must not count either.
        found = block(video + ~present[..., None, None, None], embeddings, present)
        alone = written_out(block, video[1:, :2], embeddings[1:, :2])
    torch.testing.assert_close(found[1:, :2], alone, rtol=1e-4, atol=1e-5)


def test_the_block_starts_as_the_identity_but_for_the_last_norm():
    block = Interaction(width=8, embedding=5)
    video = torch.randn(1, 2, 8, 3, 4)
    with torch.no_grad():
        same = block.norm(video.movedim(2, -1)).movedim(-1, 2)
        torch.testing.assert_close(block(video, torch.randn(1, 2, 5)), same)


@pytest.mark.slow
def test_the_model_has_the_published_size():
    (check,) = budgets.checks(BASE, "full", {"full": cost(BASE)})
    assert check.within
    assert check.value == pytest.approx(101.32, abs=0.005)
