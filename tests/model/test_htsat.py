"""HTS-AT: the published checkpoint's names and shapes, and the spectrogram it hears."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sdavs_model.config import SILENT_DECIBELS
from sdavs_model.data.core.audio import resample
from sdavs_model.data.core.decibel_mel import decibel_mel, slaney_matrix
from sdavs_model.encoders.htsat import HTSAT, _folded, under_our_names, without_stripes
from sdavs_model.encoders.loading import Weights
from sdavs_model.weights.catalogue import CATALOGUE
from sdavs_model.weights.convert import convert

DEPTHS, HEADS = (2, 2, 6, 2), (4, 8, 16, 32)


def published() -> dict[str, torch.Tensor]:
    """Random tensors with the names and shapes of the AudioSet checkpoint's `state_dict`."""
    shapes: dict[str, tuple[int, ...]] = {
        "spectrogram_extractor.stft.conv_real.weight": (513, 1, 1024),
        "spectrogram_extractor.stft.conv_imag.weight": (513, 1, 1024),
        "logmel_extractor.melW": (513, 64),
        **{f"bn0.{name}": (64,) for name in ("weight", "bias", "running_mean", "running_var")},
        "bn0.num_batches_tracked": (),
        "patch_embed.proj.weight": (96, 1, 4, 4),
        "patch_embed.proj.bias": (96,),
        "patch_embed.norm.weight": (96,),
        "patch_embed.norm.bias": (96,),
        "norm.weight": (768,),
        "norm.bias": (768,),
        "tscam_conv.weight": (527, 768, 2, 3),
        "tscam_conv.bias": (527,),
        "head.weight": (527, 527),
        "head.bias": (527,),
    }
    for stage, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
        C = 96 << stage
        for block in range(depth):
            at = f"layers.{stage}.blocks.{block}"
            for norm in ("norm1", "norm2"):
                shapes |= {f"{at}.{norm}.weight": (C,), f"{at}.{norm}.bias": (C,)}
            shapes[f"{at}.attn.relative_position_bias_table"] = (225, heads)
            shapes[f"{at}.attn.relative_position_index"] = (64, 64)
            for name, out, into in (
                ("attn.qkv", 3 * C, C),
                ("attn.proj", C, C),
                ("mlp.fc1", 4 * C, C),
                ("mlp.fc2", C, 4 * C),
            ):
                shapes |= {f"{at}.{name}.weight": (out, into), f"{at}.{name}.bias": (out,)}
            if block % 2 and stage < 3:
                shapes[f"{at}.attn_mask"] = (64 >> 2 * stage, 64, 64)
        if stage < 3:
            at = f"layers.{stage}.downsample"
            shapes |= {f"{at}.reduction.weight": (2 * C, 4 * C)}
            shapes |= {f"{at}.norm.weight": (4 * C,), f"{at}.norm.bias": (4 * C,)}
    generator = torch.Generator().manual_seed(0)
    return {f"sed_model.{n}": 0.02 * torch.rand(s, generator=generator) for n, s in shapes.items()}


def weights(tensors: dict[str, torch.Tensor]) -> Weights:
    return Weights(tensors=tensors, source="HTSAT_AudioSet.ckpt", field="audio_weights")


def test_the_published_checkpoint_covers_the_encoder():
    tensors = published()
    encoder = HTSAT(weights=weights(tensors)).eval()
    state = encoder.state_dict()
    assert torch.equal(state["bn0.running_var"], tensors["sed_model.bn0.running_var"])
    # Patch merging ends a stage there and begins the next one here.
    merging = tensors["sed_model.layers.0.downsample.reduction.weight"]
    assert torch.equal(state["swin.layers.1.downsample.reduction.weight"], merging)
    assert sum(p.numel() for p in encoder.parameters()) == 27_534_488
    assert encoder(torch.randn(2, 1, 87, 64)).shape == (2, encoder.embedding) == (2, 768)
    assert under_our_names(state).keys() == state.keys()
    del tensors["sed_model.layers.2.blocks.5.mlp.fc2.bias"]
    with pytest.raises(
        ValueError, match=r"audio_weights: HTSAT_AudioSet.ckpt does not fit: 1 missing: swin.layers.2"
    ):
        HTSAT(weights=weights(tensors))


def test_timms_layers_compute_what_the_published_ones_do():
    """Swin's own formulas, with which the checkpoint was trained: another order or epsilon would show nowhere else."""
    encoder = HTSAT().eval()
    assert {m.eps for m in encoder.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-5}
    assert {m.approximate for m in encoder.modules() if isinstance(m, torch.nn.GELU)} == {"none"}
    merging, x = encoder.swin.layers[1].downsample, torch.randn(1, 8, 8, 96)
    corners = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
    torch.testing.assert_close(merging(x), merging.reduction(merging.norm(torch.cat(corners, -1))))
    attention = encoder.swin.layers[0].blocks[0].attn
    row, column = torch.arange(64) // 8, torch.arange(64) % 8
    apart = (row[:, None] - row + 7) * 15 + column[:, None] - column + 7
    assert torch.equal(attention.relative_position_index, apart)
    shifts = [[block.shift_size for block in layer.blocks] for layer in encoder.swin.layers]
    assert shifts == [[(0, 0), (4, 4)] * (depth // 2) for depth in DEPTHS[:3]] + [[(0, 0), (0, 0)]]


def test_the_checkpoint_is_converted_under_its_name(tmp_path):
    path = tmp_path / "HTSAT_AudioSet_Saved_1.ckpt"
    torch.save({"epoch": 8, "state_dict": published()}, path)
    tensors = convert(path, CATALOGUE["htsat.audioset"])
    assert tensors.keys() == HTSAT().state_dict().keys()
    assert torch.equal(tensors["swin.norm.bias"], published()["sed_model.norm.bias"])


def test_a_frozen_encoder_gives_the_same_in_training():
    torch.manual_seed(0)
    encoder = HTSAT()
    encoder.freeze()
    encoder.train()
    log_mel = torch.randn(1, 1, 87, 64)
    assert torch.equal(encoder(log_mel), encoder(log_mel))
    assert not encoder.bn0.num_batches_tracked


def test_frozen_in_train_mode_it_varies_and_its_statistics_move_as_upstream():
    torch.manual_seed(0)
    encoder = HTSAT()
    encoder.freeze(in_train_mode=True)
    encoder.train()
    log_mel = torch.randn(2, 1, 87, 64)
    first = encoder(log_mel)
    assert not torch.allclose(first, encoder(log_mel))
    assert not first.requires_grad
    assert int(encoder.bn0.num_batches_tracked) == 2
    encoder.eval()
    assert torch.equal(encoder(log_mel), encoder(log_mel))
    assert int(encoder.bn0.num_batches_tracked) == 2


@pytest.mark.parametrize(("dim", "widest"), [(2, 64), (3, 8)])
def test_two_stripes_of_each_spectrogram_are_masked(dim, widest):
    torch.manual_seed(0)
    masked = without_stripes(torch.ones(200, 1, 87, 64), dim=dim, widest=widest)
    lines = masked.amax(5 - dim)[:, 0]  # [200, 87] or [200, 64]
    assert torch.equal(lines, masked.amin(5 - dim)[:, 0])
    missing = (1 - lines).sum(1)
    assert 0 < missing.max() <= 2 * widest
    # Two stripes of `widest` / 2 on average, less where they overlap.
    assert 0.6 * widest < missing.mean() <= widest
    assert ((lines[:, :-1] - lines[:, 1:]) == 1).sum(1).max() <= 2


def test_a_spectrogram_becomes_four_runs_of_time_below_each_other():
    spectrogram = torch.randn(1, 1, 87, 64)
    picture = _folded(spectrogram)
    assert picture.shape == (1, 1, 256, 256)
    long = F.interpolate(spectrogram, size=(1024, 64), mode="bicubic", align_corners=True)
    for frame, mel in ((0, 0), (255, 63), (256, 0), (700, 11)):
        assert picture[0, 0, 64 * (frame // 256) + mel, frame % 256] == long[0, 0, frame, mel]


def test_the_mel_matrix_is_slaneys():
    from torchaudio.functional import melscale_fbanks

    expected = melscale_fbanks(
        513, f_min=50.0, f_max=14_000.0, n_mels=64, sample_rate=32_000, norm="slaney", mel_scale="slaney"
    )
    torch.testing.assert_close(slaney_matrix().float(), expected, rtol=1e-3, atol=1e-7)


def test_the_front_end_is_its_formula_computed_step_by_step():
    """22,050 Hz; 1024 samples under a periodic Hann window every 256, centred; power; 64 mel bins; decibels."""
    sound = (0.1 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)
    padded = np.pad(resample(sound, 16_000, 22_050).astype(np.float64), 512, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    frames = np.stack([padded[at : at + 1024] * window for at in range(0, 256 * 87, 256)])
    power = np.abs(np.fft.rfft(frames)) ** 2

    def mel(hertz: float) -> float:
        return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)

    def hertz(mel: float) -> float:
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    edges = [hertz(at) for at in np.linspace(mel(50), mel(14_000), 66)]
    bins = np.arange(513) * 32_000 / 1024  # of the rate that the checkpoint's matrix was made for
    expected = np.empty((87, 64))
    for number, (low, centre, high) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        triangle = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clip(0)
        expected[:, number] = 10 * np.log10(np.maximum(power @ triangle * 2 / (high - low), 1e-10))
    torch.testing.assert_close(
        decibel_mel(sound, 1)[0, 0].double(), torch.from_numpy(expected), rtol=0, atol=0.01
    )


def test_a_second_of_sound_is_87_frames_in_decibels():
    tone = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype(np.float32)
    sound = np.concatenate([np.zeros(16_000, np.float32), tone])
    examples = decibel_mel(sound, 3)
    assert examples.shape == (3, 1, 87, 64)
    assert (examples[2] == SILENT_DECIBELS).all()
    # 440 Hz at 22,050 lies in the bin that the matrix has for 440 * 32,000 / 22,050 Hz.
    middle = examples[1, 0, 43]
    hertz = torch.linspace(0, 16_000, 513)[slaney_matrix().argmax(0)]
    assert hertz[middle.argmax()] == pytest.approx(440 * 32_000 / 22_050, abs=40)
    louder = decibel_mel(10 * sound, 3)
    torch.testing.assert_close(louder[1, 0, 43, middle.argmax()] - middle.max(), torch.tensor(20.0))
