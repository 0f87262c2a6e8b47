"""At the lengths of clips that the configs train on, every parameter that is trained learns something."""

import dataclasses
from pathlib import Path

import pytest
import torch
from sdavs_platform.config.cli import load_config

from sdavs_model import SDAVSConfig, build_model
from sdavs_model.encoders.features import Features
from sdavs_model.losses import segmentation_loss

FOLDER = Path(__file__).resolve().parents[2] / "jobs" / "configs"
CONFIGS = [path for path in sorted(FOLDER.glob("*.yaml")) if "architecture:" not in path.read_text()]
"""Those of SDAVS itself."""
NUM_CLIPS = 4


def untrained(model_config: SDAVSConfig, *, num_seconds: int) -> set[str]:
    """Parameters, or parts of them that see other seconds, whose gradient is 0 for clips of this length."""
    torch.manual_seed(0)
    small = dataclasses.replace(
        model_config.without_weights(),
        backbone="test_efficientnet",
        image_size=64,
        width=16,
        num_heads=2,
        vggish_width=1.0,
        audio_encoder="yamnet",
        freeze_backbone=True,
        freeze_audio_encoder=True,
        from_scratch=False,
    )
    model = build_model(small)
    sizes = zip(model.visual_encoder.channels, (16, 8, 4, 2), strict=True)
    features = Features(
        maps=[torch.randn(NUM_CLIPS, num_seconds, channels, side, side) for channels, side in sizes],
        embeddings=torch.randn(NUM_CLIPS, num_seconds, 1024).relu(),
        size=(64, 64),
    )
    masks = (torch.rand(NUM_CLIPS, num_seconds, 64, 64) > 0.7).long()
    segmentation_loss(model(features=features), masks)["loss"].backward()
    found = set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for part, values in _parts(name, gradient):
            # Softmax does not see what is added to all keys alike, nor its bias.
            if float(values.abs().max()) < 1e-9 and not part.endswith("k of bias"):
                found.add(part)
    return found


def _parts(name: str, gradient: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Queries, keys and values of a common matrix, and the taps of convolutions over time, each for itself."""
    if ".qkv." in name:
        kind = name.rsplit(".", 1)[1]
        return [
            (f"{name}: {part} of {kind}", rows) for part, rows in zip("qkv", gradient.chunk(3), strict=True)
        ]
    if name.endswith(("neighbours.weight", "depthwise.weight")):
        return [(f"{name}: tap {tap}", gradient[:, :, tap]) for tap in range(gradient.shape[2])]
    return [(name, gradient)]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_trained_parameter_has_a_gradient_at_the_length_that_a_config_trains(path):
    base = [FOLDER / "demo.yaml"] if path.stem == "demo_blind" else []
    config = load_config([*base, path])
    num_frames = config.model.num_frames
    lengths = {config.data.augment.window or num_frames} | (
        {num_frames} if config.data.whole_clips else set()
    )
    assert set.intersection(*(untrained(config.model, num_seconds=length) for length in lengths)) == set()


def test_single_seconds_leave_what_looks_at_other_seconds_at_its_start():
    config = load_config([FOLDER / "demo.yaml"])
    found = untrained(config.model, num_seconds=1)
    assert "audio_attention.layers.0.qkv.weight: q of weight" in found
    assert "levels.0.snrp.channel.extract.neighbours.weight: tap 0" in found
    assert "levels.0.damf.stc_video.depthwise.weight: tap 2" in found
    assert all("qkv" in name or "tap" in name for name in found)
