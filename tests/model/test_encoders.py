"""The audio encoders, and what a frozen encoder is."""

import math
import platform
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F

from sdavs_model import SDAVSConfig, build_model
from sdavs_model.config import PreprocessConfig
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.encoders.batch_norm import fold_batch_norms
from sdavs_model.encoders.vggish import VGGish
from sdavs_model.encoders.yamnet import YAMNet
from sdavs_model.training_step import training_loss

SMALL = {"image_size": 64, "width": 16, "num_heads": 2}
FROZEN = SDAVSConfig(
    backbone="tf_efficientnet_lite0",
    audio_encoder="yamnet",
    freeze_backbone=True,
    freeze_audio_encoder=True,
    **SMALL,
)


def batch() -> dict:
    generator = torch.Generator().manual_seed(0)
    return {
        "frames": torch.randn(2, 2, 3, 64, 64, generator=generator),
        "log_mel": torch.randn(2, 2, 1, 96, 64, generator=generator),
        "masks": torch.randint(0, 2, (2, 2, 64, 64), generator=generator),
        "name": ["a", "b"],
    }


def test_yamnet_is_27_convolutions_with_the_published_shapes():
    yamnet = YAMNet()
    shapes = {name: list(value.shape) for name, value in yamnet.state_dict().items()}
    assert len(shapes) == 2 * 27
    assert shapes["stem.weight"] == [32, 1, 3, 3]
    assert shapes["blocks.0.0.weight"] == [32, 1, 3, 3]
    assert shapes["blocks.0.1.weight"] == [64, 32, 1, 1]
    assert shapes["blocks.12.1.weight"] == [1024, 1024, 1, 1]
    assert sum(value.numel() for value in yamnet.state_dict().values()) == 3_195_456
    assert yamnet(torch.randn(3, 1, 96, 64)).shape == (3, yamnet.embedding) == (3, 1024)


def test_yamnet_pads_as_tensorflow_does():
    torch.manual_seed(0)
    yamnet = YAMNet()
    x = torch.randn(1, 1, 96, 64)
    # "same" with stride 2 on even sizes: nothing in front, one zero behind. Output (0, 0) sees inputs 0 to 2.
    stem = yamnet.stem(x)
    assert stem.shape == (1, 32, 48, 32)
    corner = (yamnet.stem.weight[:, 0] * x[0, 0, :3, :3]).sum((-2, -1)) + yamnet.stem.bias
    torch.testing.assert_close(stem[0, :, 0, 0], F.relu(corner))
    edge = (yamnet.stem.weight[:, 0, :2, :2] * x[0, 0, -2:, -2:]).sum((-2, -1)) + yamnet.stem.bias
    torch.testing.assert_close(stem[0, :, -1, -1], F.relu(edge))


@pytest.mark.parametrize("encoder", [YAMNet(), VGGish(width=0.125)], ids=["yamnet", "vggish"])
def test_an_untrained_encoder_tells_sounds_apart(encoder):
    torch.manual_seed(0)
    noise = torch.randn(8, 1, 96, 64) - 3
    with torch.no_grad():
        embeddings = F.normalize(encoder(noise), dim=1)
    assert (embeddings @ embeddings.T).fill_diagonal_(0).max() < 0.999


def test_each_audio_encoder_gets_the_log_offset_that_it_was_trained_with():
    offsets = {
        name: SDAVSConfig(backbone="resnet10t", audio_encoder=name).preprocess.log_offset
        for name in ("vggish", "yamnet")
    }
    assert offsets == {"vggish": 0.01, "yamnet": 0.001}
    silence = Preprocessor(PreprocessConfig(log_offset=0.001)).log_mel(np.zeros(16000, np.float32), 1)
    torch.testing.assert_close(silence, torch.full((1, 1, 96, 64), math.log(0.001)))


def test_log_mels_of_avsbenchs_files_are_moved_to_yamnets_offset():
    sound = np.random.default_rng(0).uniform(-0.3, 0.3, 3 * 16000).astype(np.float32)
    vggish, yamnet = (Preprocessor(PreprocessConfig(log_offset=offset)) for offset in (0.01, 0.001))
    moved = yamnet.log_mel_of_vggish(vggish.log_mel(sound, 3))
    torch.testing.assert_close(moved, yamnet.log_mel(sound, 3), rtol=1e-4, atol=1e-4)
    assert torch.isfinite(yamnet.log_mel_of_vggish(torch.full((1, 1, 96, 64), -99.0))).all()
    assert torch.equal(vggish.log_mel_of_vggish(moved), moved)


def test_a_frozen_encoder_stays_as_it_is_while_the_rest_learns():
    torch.manual_seed(0)
    model = build_model(FROZEN)
    encoders = (model.visual_encoder, model.audio_encoder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.1)
    for _ in range(2):
        model.train()
        assert not any(module.training for encoder in encoders for module in encoder.modules())
        assert model.audio_attention.training
        optimizer.zero_grad()
        training_loss(model, batch())["loss"].backward()
        optimizer.step()
    assert not any(p.requires_grad or p.grad is not None for e in encoders for p in e.parameters())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith(("visual_encoder.", "audio_encoder.")) for name in changed)
    assert {name for name, p in model.named_parameters() if p.requires_grad} <= changed


def test_the_features_of_frozen_encoders_can_be_kept_and_used_again():
    torch.manual_seed(0)
    model = build_model(FROZEN)
    model.train()
    clip = batch()
    kept = model.encode(clip["frames"], clip["log_mel"])
    assert [tuple(m.shape) for m in kept.maps] == [
        (2, 2, channels, 16 >> level, 16 >> level)
        for level, channels in enumerate(model.visual_encoder.channels)
    ]
    assert kept.embeddings.shape == (2, 2, 1024)
    assert not kept.embeddings.requires_grad
    model.eval()
    with torch.no_grad():
        assert torch.equal(model.forward_features(kept), model(clip["frames"], clip["log_mel"]))


def test_a_backbone_that_is_not_trained_gets_frames_in_channels_last_layout_on_a_cpu():
    model = build_model(FROZEN)
    layouts = []
    model.visual_encoder.backbone.register_forward_pre_hook(
        lambda backbone, inputs: layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    for is_trained in (False, True):
        model.visual_encoder.training = is_trained
        model.encode_frames(batch()["frames"])
    assert layouts == [True, False]


def test_what_is_frozen_follows_from_the_config():
    assert not SDAVSConfig().audio_encoder_is_frozen
    assert SDAVSConfig(audio_weights="vggish.pth").audio_encoder_is_frozen  # the paper's choice
    assert not SDAVSConfig(audio_weights="vggish.pth", freeze_audio_encoder=False).audio_encoder_is_frozen
    assert not SDAVSConfig(audio_weights="vggish.pth", from_scratch=True).audio_encoder_is_frozen
    assert SDAVSConfig(audio_weights="vggish.pth").without_weights().audio_encoder_is_frozen
    with pytest.raises(ValueError, match=r"from_scratch: .*set freeze_backbone=false"):
        SDAVSConfig(from_scratch=True, freeze_backbone=True)
    with pytest.raises(ValueError, match=r"vggish_width: has no effect with audio_encoder='yamnet'"):
        SDAVSConfig(audio_encoder="yamnet", vggish_width=0.5)


def test_keys_of_earlier_versions_are_still_read():
    old = SDAVSConfig.from_dict({"vggish_weights": "vggish.pth"})
    assert old == SDAVSConfig(audio_weights="vggish.pth")


@pytest.mark.parametrize(
    ("name", "num_folded"),
    [("tf_efficientnet_lite0", 48), ("resnet10t", 14), ("regnetx_002", 44), ("pvt_v2_b0", 0)],
)
def test_a_backbone_with_folded_batch_norms_gives_the_same_maps(name, num_folded):
    torch.manual_seed(0)
    backbone = timm.create_model(name, features_only=True).eval()
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    frames = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = backbone(frames)
        assert fold_batch_norms(backbone, frames[:1]) == num_folded
        after = backbone(frames)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5 * float(one.abs().max()))


def test_a_batch_norm_stays_where_its_convolution_runs_twice_or_something_else_reads_its_output():
    class Shared(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)
            self.other = torch.nn.Conv2d(3, 3, 1)

        def forward(self, x):
            made = self.conv(x)
            return self.norm(made) + self.other(made)

    class Twice(torch.nn.Sequential):
        def forward(self, x):
            return super().forward(super().forward(x))

    x = torch.randn(1, 3, 4, 4)
    assert fold_batch_norms(Shared().eval(), x) == 0
    assert fold_batch_norms(Twice(torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)).eval(), x) == 0


def test_memory_that_a_process_frees_stays_with_it():
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another C library")
    script = (
        "import resource, torch\n"
        "from sdavs_model.cpu_memory import keep_freed_memory\n"
        "assert keep_freed_memory()\n"
        "for _ in range(3): torch.zeros(2**20)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(50): torch.zeros(2**20)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    # Otherwise each map of 4 MB would be mapped page by page, with 1024 faults.
    assert int(answer.stdout) < 50 * 1024 / 4
