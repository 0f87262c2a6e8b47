"""What must hold of the model's numbers: symmetries, gates, gradients, and the same output however it runs."""

import copy
import dataclasses
import shutil

import pytest
import torch
from torch import nn

from sdavs_model import SDAVS, Ablation, SDAVSConfig, build_model
from sdavs_model.architectures.sdavs.damf import STC
from sdavs_model.architectures.sdavs.snrp import SNRP, SpatialSelector
from sdavs_model.losses import segmentation_loss
from sdavs_model.metrics import ObjectMetrics
from sdavs_model.training_step import training_loss

SMALL = SDAVSConfig(backbone="pvt_v2_b0", image_size=64, width=32, num_heads=4, vggish_width=0.125)


def small_model(**changes: object) -> SDAVS:
    torch.manual_seed(0)
    return build_model(dataclasses.replace(SMALL, **changes))


def clips(num_clips: int = 2, num_frames: int = 3, size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(num_clips, num_frames, 3, size, size, generator=generator)
    return frames, torch.randn(num_clips, num_frames, 1, 96, 64, generator=generator)


@pytest.fixture(scope="module")
def eager() -> tuple[SDAVS, torch.Tensor]:
    """A model in eval mode and its output for `clips()`, about 1 in size."""
    model = small_model()
    with torch.no_grad():
        model.train()(*clips())  # running statistics that are not the initial ones
        model.eval()
        model.decoder.fc.weight /= model(*clips()).std()
        return model, model(*clips())


@torch.no_grad()
def test_the_order_of_clips_in_a_batch_changes_nothing_but_the_order(eager):
    model, logits = eager
    frames, log_mel = clips()
    torch.testing.assert_close(model(frames.flip(0), log_mel.flip(0)), logits.flip(0), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_only_the_convolutions_over_neighbouring_seconds_depend_on_the_order_of_time():
    """SNRP's extractor and STC look one second back and ahead. Everything else treats a clip as a set of seconds.

    So the seconds' order matters, and without those convolutions' outer taps it does not.
    """
    model, order = small_model().eval(), torch.tensor([2, 0, 1])
    frames, log_mel = clips()
    shuffled = frames[:, order], log_mel[:, order]
    scale = model(frames, log_mel).std()
    assert (model(*shuffled) - model(frames, log_mel)[:, order]).abs().max() > 1e-3 * scale
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv3d):
            module.weight[:, :, 0] = 0
            module.weight[:, :, 2] = 0
    torch.testing.assert_close(
        model(*shuffled) / scale, model(frames, log_mel)[:, order] / scale, rtol=1e-4, atol=1e-4
    )


def test_an_object_that_disagrees_with_the_sound_receives_no_gradient_through_a_closed_gate():
    """Two objects: one looks as the sound sounds, the other as its opposite. The gate shuts out the second."""
    torch.manual_seed(0)
    snrp = SNRP(width=32, num_heads=4, ablation=Ablation())
    selector = snrp.spatial
    assert isinstance(selector, SpatialSelector)
    audio = torch.randn(1, 1, 32, requires_grad=True)
    with torch.no_grad():
        heard = selector.extract(audio)[0, 0] / snrp.channel(audio)[0, 0]
        # The selector decides sharply: where the sum of the heads' agreement is negative, the gate is 0.
        first, _, last = selector.assess
        nn.init.dirac_(first.weight)
        nn.init.zeros_(first.bias)
        nn.init.constant_(last.weight, 1e5)
        nn.init.constant_(last.bias, -1e4)
        video = torch.zeros(1, 1, 32, 8, 8)
        video[..., :, :4] = heard[:, None, None]
        video[..., :, 4:] = -heard[:, None, None]
    video.requires_grad_()
    out = snrp(video, audio)
    assert (out.spatial_gate[..., :4] == 1).all()
    assert (out.spatial_gate[..., 4:] == 0).all()
    (out.video * torch.randn_like(out.video)).sum().backward()
    assert (video.grad[..., 4:] == 0).all()
    assert (video.grad[..., :4] != 0).any()

    audio.grad = None
    (snrp(video, audio).video[..., 4:] * torch.randn(8, 4)).sum().backward()
    assert (audio.grad == 0).all(), "the silent object teaches the audio side nothing, either"


def test_every_parameter_of_the_model_receives_a_finite_gradient_that_is_not_zero():
    model = small_model()
    frames, log_mel = clips()
    masks = (torch.rand(2, 3, 64, 64) > 0.5).long()
    segmentation_loss(model(frames, log_mel), masks)["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@torch.no_grad()
def test_training_mode_without_gradients_and_frame_by_frame_decoding_agree(eager, monkeypatch):
    """In inference a CPU decodes large maps frame by frame and writes over maps; with gradients it does neither."""
    model, _ = eager
    monkeypatch.setattr("sdavs_model.architectures.sdavs.decoder.FRAME_BY_FRAME", 0)
    logits = model(*clips())
    with torch.enable_grad():
        together = model(*clips())
    torch.testing.assert_close(logits, together.detach(), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_channels_last_frames_and_weights_change_nothing(eager):
    state, logits = eager[0].state_dict(), eager[1]
    model = small_model()
    model.load_state_dict(state)
    model.eval()
    # Part by part: torch refuses the whole, because STC's convolution over time has weights of five axes.
    for part in (model.visual_encoder, model.audio_encoder, model.decoder):
        part.to(memory_format=torch.channels_last)
    frames, log_mel = clips()
    flat = frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(flat.unflatten(0, (2, 3)), log_mel), logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_bf16_autocast_agrees_to_the_precision_of_bf16(eager):
    model, logits = eager
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(*clips())
    # Eight bits of mantissa, some fifty layers deep, random weights: some per cent of the logits' spread, 1.
    difference = (rounded.float() - logits).abs()
    assert difference.mean() < 0.08
    assert difference.max() < 0.5


@pytest.mark.slow
@torch.no_grad()
def test_an_exported_model_gives_the_eager_logits(eager):
    model, logits = eager
    exported = torch.export.export(model, clips()).module()
    torch.testing.assert_close(exported(*clips()), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile makes C++ on a CPU, and there is no g++"
)
def test_a_selector_compiled_to_machine_code_gives_the_eager_output(eager):
    selector = eager[0].levels[1].snrp.channel
    audio = torch.randn(2, 3, 32)
    compiled = torch.compile(selector, fullgraph=True)(audio)
    torch.testing.assert_close(compiled, selector(audio), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_the_model_overfits_four_clips():
    """Two frames of two objects each, two sounds: the mask is the object that sounds."""
    torch.manual_seed(0)
    model = build_model(SMALL)
    pictures = torch.randn(2, 2, 3, 64, 64) * 0.1
    pictures[0, :, 0, 8:32, 8:32] += 2
    pictures[0, :, 1, 32:56, 32:56] += 2
    pictures[1, :, 1, 8:32, 32:56] += 2
    pictures[1, :, 0, 32:56, 8:32] += 2
    sounds = torch.randn(2, 2, 1, 96, 64)
    red_and_green = (pictures[:, :, :2] > 1).long().transpose(1, 2)  # [picture, colour, T, H, W]
    batch = {
        "name": ["a", "b", "c", "d"],
        "frames": pictures[[0, 0, 1, 1]],
        "log_mel": sounds[[0, 1, 0, 1]],
        "masks": red_and_green.flatten(0, 1),
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3)
    # The last, small steps let the running statistics of the embeddings catch up with the encoder.
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [45])
    for _ in range(60):
        optimizer.zero_grad()
        training_loss(model, batch)["loss"].backward()
        optimizer.step()
        schedule.step()
    metrics = ObjectMetrics()
    with torch.no_grad():
        logits = model.eval()(batch["frames"], batch["log_mel"])[:, :, 0]
    for clip_logits, clip_masks in zip(logits, batch["masks"], strict=True):
        metrics.update(clip_logits, clip_masks)
    assert metrics.compute()["miou"] > 0.95


@pytest.mark.parametrize("num_frames", [1, 2, 3, 5])
def test_an_stc_in_bf16_has_the_gradients_of_fp32_for_any_number_of_frames(num_frames):
    torch.manual_seed(0)
    full = STC(width=32, stride=1, car=False)
    half = copy.deepcopy(full).bfloat16()
    # Channels last, as encoders give them on CPU.
    x = torch.randn(2, num_frames, 4, 4, 32).bfloat16().permute(0, 1, 4, 2, 3)
    full(x.float()).sum().backward()
    half(x).sum().backward()
    exact, rounded = full.depthwise.weight.grad, half.depthwise.weight.grad
    assert rounded.float() == pytest.approx(exact, abs=0.03 * float(exact.abs().max()))
