"""The trained model that comes with the product: small, described, and it listens."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sdavs_model import build_model
from sdavs_model.encoders.features import Features
from sdavs_model.files import sha256_of
from sdavs_model.trained_parts import ENCODERS, SHIPPED, read_parts

SECOND = Path(__file__).with_name("shipped_second.safetensors")
"""A second of a composed clip of the split "new scenes" as the frozen encoders' outputs, its mask, and silence."""

QUARTERS = [
    [-4.605757, -9.317771, -7.566279, -7.543746],
    [-4.423397, -9.185009, -7.229429, -7.231419],
    [-4.348215, -9.088053, -6.840414, -6.893150],
    [-4.616361, -9.349011, -7.425515, -7.405524],
]
"""Mean logits of four seconds made of SECOND: upper left, upper right, lower left and lower right quarter."""


@pytest.fixture(scope="module")
def shipped():
    """The model, with encoders that are random and not used here."""
    card, tensors = read_parts(SHIPPED)
    model = build_model(card.config.without_weights())
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert all(name.startswith(ENCODERS) for name in missing)
    return model.eval()


def marked(model, sound: str) -> torch.Tensor:
    """[S, S] bool: what the model marks in the second's picture with this sound."""
    second = load_file(SECOND)
    features = Features(
        maps=[second[f"map_{level}"].float()[None] for level in range(4)],
        embeddings=second[sound].float()[None],
        size=second["masks"].shape[-2:],
    )
    with torch.inference_mode():
        return model(features=features)[0, 0, 0] > 0


def test_it_marks_what_sounds_and_nothing_in_silence(shipped):
    expected = load_file(SECOND)["masks"][0] > 0
    found = marked(shipped, "embeddings")
    assert (found & expected).sum() > 0.6 * (found | expected).sum()
    assert marked(shipped, "silence").float().mean() < 0.02


def test_its_logits_are_those_of_the_version_that_trained_it(shipped):
    """Four seconds, so that the convolutions over time take part; means over quarters of the pictures."""
    second = load_file(SECOND)
    volume = torch.tensor([1.0, 0.5, 0.0, 1.0])
    features = Features(
        maps=[
            second[f"map_{level}"].float() * torch.tensor([1.0, 1.0, 0.5, 0.8])[:, None, None, None]
            for level in range(4)
        ],
        embeddings=second["embeddings"].float() * volume[:, None],
        size=second["masks"].shape[-2:],
    )
    features = features.map(lambda each: each[None])
    with torch.inference_mode():
        logits = shipped(features=features)[0, :, 0]
    quarters = torch.nn.functional.adaptive_avg_pool2d(logits, 2).flatten(1)
    torch.testing.assert_close(quarters, torch.tensor(QUARTERS), rtol=1e-5, atol=1e-5)


def test_it_is_small_and_its_card_is_that_of_this_file():
    assert SHIPPED.stat().st_size < 3e6
    card = SHIPPED.with_name("README.md").read_text()
    assert sha256_of(SHIPPED) in card
    for part in ("## Data", "## Figures", "## Licences", "## Limits", "test_strict", "swapped audio"):
        assert part in card
