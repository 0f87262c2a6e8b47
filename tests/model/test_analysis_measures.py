"""The measures of the analyses against values worked out by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sdavs_model.analysis.consistency import (
    LinearCKA,
    js_divergence,
    kl_divergence,
    linear_cka,
    spatial_distribution,
)
from sdavs_model.analysis.damf_attention import attention_received, concentration
from sdavs_model.analysis.elimination import scored_classes, separation
from sdavs_model.analysis.feature_maps import focus, grad_cam, points_at
from sdavs_model.analysis.listening import OffScreenSound, listening_sounds, nothing_visible_sounds
from sdavs_model.analysis.noise_mixing import (
    BrownianNoise,
    RecordedNoise,
    WhiteNoise,
    add_at_snr,
    add_scaled,
    rms,
    snr_of_factor,
)
from sdavs_model.analysis.snrp_gates import LevelDistribution, LevelResponse, contrast
from sdavs_model.architectures.base import Heard
from sdavs_model.data.core.audio import write_wav
from sdavs_model.metrics.listening import marked_fraction


class Categories(list):
    """The categories that a data set records, without frames and sound."""

    def __init__(self, heard, seen):
        super().__init__(heard)
        self.categories, self.seen = heard, seen


def test_cka_is_one_for_equal_rotated_and_scaled_features():
    torch.manual_seed(0)
    x = torch.randn(200, 6)
    rotation = torch.linalg.qr(torch.randn(6, 6)).Q
    assert linear_cka(x, x) == pytest.approx(1)
    assert linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1)


def test_cka_is_zero_for_uncorrelated_features_and_half_way_where_half_is_shared():
    a, b = torch.tensor([1.0, 1, -1, -1]), torch.tensor([1.0, -1, 1, -1])
    assert linear_cka(a[:, None], b[:, None]) == pytest.approx(0, abs=1e-12)
    # Of two independent columns of equal weight one is shared: 1 / (1 * sqrt 2).
    assert linear_cka(a[:, None], torch.stack([a, b], 1)) == pytest.approx(1 / math.sqrt(2))


def test_cka_does_not_depend_on_how_the_examples_are_cut_and_refuses_features_that_do_not_vary():
    torch.manual_seed(0)
    x, y = torch.randn(50, 3), torch.randn(50, 4)
    parts = LinearCKA()
    for start in (0, 7, 40):
        stop = {0: 7, 7: 40, 40: 50}[start]
        parts.update(x[start:stop], y[start:stop])
    assert parts.compute() == pytest.approx(linear_cka(x, y))
    with pytest.raises(ValueError, match="the same everywhere"):
        linear_cka(torch.ones(9, 2), torch.randn(9, 2))


def test_divergences_have_their_closed_form():
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    assert float(kl_divergence(p, q)) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert float(kl_divergence(p, p)) == float(js_divergence(q, q)) == 0
    disjoint = torch.eye(2)
    assert float(js_divergence(disjoint[0], disjoint[1])) == pytest.approx(math.log(2), abs=1e-6)
    features = torch.tensor([[[1.0, 0.0]], [[0.0, 3.0]]])  # [2, 1, 2]: energies 1 and 9
    assert spatial_distribution(features).tolist() == pytest.approx([0.1, 0.9])


def test_attention_received_is_a_distribution_that_follows_the_keys():
    query = torch.zeros(1, 2, 3, 4)
    assert attention_received(query, torch.randn(1, 2, 5, 4)).tolist()[0] == pytest.approx([0.2] * 5)
    key = torch.zeros(1, 1, 2, 4)
    key[0, 0, 1] = 1
    received = attention_received(torch.ones(1, 1, 3, 4), key)[0]  # logits 0 and 4 / sqrt(4)
    assert received.tolist() == pytest.approx([1 / (1 + math.e**2), math.e**2 / (1 + math.e**2)])
    assert concentration(torch.tensor([[0.25] * 4, [0, 0, 1, 0]])).tolist() == pytest.approx([0, 1])


def test_grad_cam_weighs_channels_by_their_mean_gradient_and_drops_negative_evidence():
    activation = torch.tensor([[[1.0, 2.0]], [[4.0, 1.0]]])  # [2, 1, 2]
    gradient = torch.tensor([[[3.0, 1.0]], [[-1.0, -1.0]]])  # means 2 and -1
    assert grad_cam(activation, gradient).tolist() == [[0.0, 3.0]]  # 2 - 4 and 4 - 1


def test_focus_and_the_pointing_game_score_right_wrong_uniform_and_empty_maps():
    mask = torch.zeros(4, 2, 4)
    mask[:3, :, 0] = 1
    heat = torch.ones(4, 2, 4)
    heat[0] = mask[0]
    heat[1] = 1 - mask[1]
    right, wrong, even, empty = focus(heat, mask).tolist()
    assert (right, wrong, even) == pytest.approx((4, 0, 1))
    assert math.isnan(empty)
    assert points_at(heat, mask)[:2].tolist() == [1, 0]
    assert math.isnan(points_at(heat, mask)[3])


def test_contrast_and_the_histograms_of_a_gate_follow_the_mask():
    mask = torch.zeros(2, 4, 4)
    mask[:, :2] = 1
    gate = torch.where(mask > 0, 0.9, 0.1)
    found = LevelResponse(
        before=torch.ones(2, 4, 4), after=gate, spatial_gate=gate, channel_gate=torch.ones(2, 3)
    )
    level = LevelDistribution()
    row = level.update(found, mask, torch.tensor([True, False]))
    assert row == pytest.approx({"contrast_before": 1, "contrast_after": 9, "gate_contrast": 9})
    inside, outside = level.spatial_histogram()
    assert (float(inside[36]), float(outside[4])) == (1, 1)
    assert len(level.channel_gates()) == 1
    assert level.numbers()["channel_std_over_channels"] == 0
    assert math.isnan(contrast(gate, torch.zeros(2, 4, 4)))


def test_brownian_noise_falls_by_six_decibels_an_octave_and_is_the_same_for_the_same_seed():
    noise = BrownianNoise(seed=1)
    sound = noise(80_000, 0)
    assert np.array_equal(sound, noise(80_000, 0))
    assert not np.array_equal(sound, noise(80_000, 1))
    assert np.abs(sound).max() == 1
    power = np.abs(np.fft.rfft(sound)) ** 2
    hertz = np.fft.rfftfreq(80_000, 1 / 16_000)
    octaves = [power[(hertz >= low) & (hertz < 2 * low)].mean() for low in (100, 200, 400, 800, 1600, 3200)]
    falls = 10 * np.log10(np.array(octaves[:-1]) / octaves[1:])
    assert np.all(np.abs(falls - 6.02) < 1)
    assert power[hertz < 19].max() < 1e-6 * power.max()


def test_white_noise_has_the_same_power_in_every_octave_per_hertz():
    sound = WhiteNoise(seed=1)(80_000, 0)
    assert np.array_equal(sound, WhiteNoise(seed=1)(80_000, 0))
    power = np.abs(np.fft.rfft(sound)) ** 2
    hertz = np.fft.rfftfreq(80_000, 1 / 16_000)
    octaves = [power[(hertz >= low) & (hertz < 2 * low)].mean() for low in (200, 400, 800, 1600, 3200)]
    assert np.all(np.abs(10 * np.log10(np.array(octaves) / octaves[0])) < 1)


def test_noise_is_added_at_the_promised_factor_and_ratio():
    rng = np.random.default_rng(0)
    sound = (0.2 * rng.standard_normal(16_000)).astype(np.float32)
    noise = BrownianNoise(seed=0)(16_000, 0)
    assert np.allclose(add_scaled(sound, noise, 0.1) - sound, 0.1 * noise, atol=1e-6)
    for snr in (10, 0, -10):
        added = add_at_snr(sound, noise, snr) - sound
        assert 20 * math.log10(rms(sound) / rms(added)) == pytest.approx(snr, abs=0.01)
    ratio = snr_of_factor(sound, noise, 0.1)
    assert np.allclose(add_at_snr(sound, noise, ratio), add_scaled(sound, noise, 0.1), atol=1e-6)
    assert not add_at_snr(np.zeros_like(sound), noise, 0).any()


def test_a_recording_is_looped_from_an_offset_of_each_clip_and_a_silent_one_is_refused(tmp_path):
    ramp = np.arange(1, 1001, dtype=np.int16)
    write_wav(tmp_path / "ramp.wav", ramp)
    noise = RecordedNoise(tmp_path / "ramp.wav", seed=0)
    first, second = noise(3000, 0), noise(3000, 1)
    assert np.allclose(first[:1000], first[1000:2000])
    assert not np.allclose(first, second)
    assert len(RecordedNoise(seed=0)(80_000, 0)) == 80_000  # the bundled train
    write_wav(tmp_path / "none.wav", np.zeros(100, np.int16))
    with pytest.raises(ValueError, match=r"none\.wav: is silent"):
        RecordedNoise(tmp_path / "none.wav", seed=0)


def test_a_sound_from_off_screen_is_neither_seen_nor_heard_in_the_clip():
    clips = Categories(["dog", "cat", "bird+dog", "", "cow"], ["cat+dog", "cat", "bird", "dog", "cow"])
    partners = OffScreenSound(clips).partners
    assert partners == [4, 2, 4, 4, 0]
    clips.seen = [""] * 5
    with pytest.raises(ValueError, match="does not record which categories"):
        OffScreenSound(clips)
    sounds, left_out = listening_sounds(
        clips, silence=torch.zeros(1, 96, 64), noises={"noise only": BrownianNoise(seed=0)}
    )
    assert list(left_out) == ["off-screen"]
    assert list(sounds) == ["right", "silence", "swapped", "noise only"]


def test_only_frames_in_which_nothing_visible_can_sound_count_as_wrongly_marked():
    masks = torch.zeros(2, 4, 4)
    masks[1, 0, 0] = 1
    clips = Categories(["dog", "cat"], ["cat+dog", "bird"])
    swapped = SimpleNamespace(clips=clips, partners=[1, 0])
    assert nothing_visible_sounds("right", swapped, 0, masks).tolist() == [True, False]
    assert nothing_visible_sounds("silence", swapped, 0, masks).tolist() == [True, True]
    assert nothing_visible_sounds("swapped", swapped, 0, masks).tolist() == [False, False]  # the cat is seen
    assert nothing_visible_sounds("swapped", swapped, 1, masks).tolist() == [True, True]
    probability = torch.zeros(2, 4, 4)
    probability[0, :2] = 0.9
    assert marked_fraction(probability).tolist() == [0.5, 0]


def test_the_separation_is_the_probability_that_one_exceeds_the_other():
    rng = np.random.default_rng(0)
    higher, lower = rng.integers(0, 6, 40).tolist(), rng.integers(0, 5, 30).tolist()
    pairs = [(a > b) + 0.5 * (a == b) for a in higher for b in lower]
    assert separation(higher, lower) == pytest.approx(sum(pairs) / len(pairs))
    assert separation([2.0], [1.0]) == 1
    assert np.isnan(separation([], [1.0]))


def test_what_a_model_hears_is_labelled_by_what_sounds_in_that_second():
    heard = Heard(
        classes=torch.tensor([[[0, 2], [1, 2]]]),
        distances=torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]),
        seen=torch.tensor([[[0.9, 0.1], [0.5, 0.2]]]),
    )
    on_screen, off_screen = [{"cat"}, set()], [{"cat", "dog"}, {"dog"}]
    found = scored_classes(heard, names=("cat", "dog", "owl"), on_screen=on_screen, off_screen=off_screen)
    assert [(each.second, each.name, each.where) for each in found] == [
        (0, "cat", "on screen"),
        (0, "owl", "silent"),
        (1, "dog", "off screen"),
        (1, "owl", "silent"),
    ]
