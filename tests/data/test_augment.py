"""Augmentation changes a clip a lot and never moves sound against picture."""

import numpy as np
import pytest
import torch

from sdavs_model.data.augment.augmentation import augment_clip, augment_log_mel, draw_window, mix
from sdavs_model.data.augment.config import Augment
from sdavs_model.data.benchmarks.avsbench_object import AVSBenchMS3
from sdavs_model.data.core.clip import Clip
from sdavs_model.data.training_clips import TrainingClips

GEOMETRY_OFF = {"zoom": 0.0, "shift": 0.0, "rotation": 0.0, "flip_prob": 0.0, "erase_prob": 0.0}


def marked_clip(size: int = 64) -> Clip:
    """In second 1 and 3 there is a tone, and a bright square that is marked."""
    frames = np.full((5, size, size, 3), 40, np.uint8)
    masks = np.zeros((5, size, size), np.uint8)
    sound = np.zeros((5, 16000), np.float32)
    for second in (1, 3):
        frames[second, 20:44, 20:44] = 220
        masks[second, 20:44, 20:44] = 1
        sound[second] = 0.3 * np.sin(np.arange(16000) * 0.2)
    return Clip(name="marked", frames=frames, masks=masks, waveform=sound.reshape(-1))


def test_the_marked_seconds_are_the_sounding_seconds_before_and_after():
    augment = Augment(reverse_prob=0.5, zoom=0.1, sound_noise_prob=0.0)
    for index in range(30):
        varied = augment_clip(marked_clip(), augment, 48, np.random.default_rng(index))
        level = np.abs(varied.waveform.reshape(5, -1)).max(axis=1)
        assert varied.frames.shape == (5, 48, 48, 3)
        assert set(np.flatnonzero(level > 0.01)) >= set(np.flatnonzero(varied.masks.any(axis=(1, 2))))
        assert set(np.flatnonzero(level > 1e-4)) == {1, 3}


def test_masks_move_with_the_pixels_and_hidden_pixels_are_unmarked():
    plain_look = {"brightness": 0.0, "saturation": 0.0, "hue": 0.0, "gray_prob": 0.0, "blur_prob": 0.0}
    augment = Augment(**plain_look, pixel_noise=0.0, erase_prob=0.0, reverse_prob=0.0)
    for index in range(20):
        varied = augment_clip(marked_clip(), augment, 64, np.random.default_rng(index))
        bright = (varied.frames[1].min(axis=-1) > 128) & (varied.frames[0].min(axis=-1) <= 128)
        differs = bright != (varied.masks[1] > 0)
        if varied.masks[1].sum() > 200 and bright.sum() > 200:
            assert differs.sum() < 0.25 * varied.masks[1].sum()
    erased = augment_clip(marked_clip(), Augment(erase_prob=1.0), 64, np.random.default_rng(2))
    assert erased.masks.max() <= 1


def test_with_every_strength_at_zero_nothing_changes():
    off = Augment(
        **GEOMETRY_OFF, reverse_prob=0, brightness=0, saturation=0, hue=0, gray_prob=0, blur_prob=0,
        pixel_noise=0, gain_db=0, pitch=0, equalizer_db=0, band_prob=0, sound_noise_prob=0,
        mel_time_mask=0, mel_band_mask=0,
    )  # fmt: skip
    clip = marked_clip()
    same = augment_clip(clip, off, 64, np.random.default_rng(0))
    np.testing.assert_array_equal(same.frames, clip.frames)
    np.testing.assert_array_equal(same.masks, clip.masks)
    np.testing.assert_allclose(same.waveform, clip.waveform, atol=1e-4)
    log_mel = torch.randn(5, 1, 96, 64)
    same = augment_log_mel(log_mel, off, np.random.default_rng(0), silence=-4.6)
    assert torch.equal(same, log_mel)


def test_mixing_adds_the_other_sound_and_leaves_the_masks():
    clip = marked_clip()
    other = np.full(80000, 0.1, np.float32)
    mixed = mix(clip, other, Augment(mix_prob=1.0), np.random.default_rng(0))
    assert mixed.masks is clip.masks
    assert 0.02 < np.mean(mixed.waveform - clip.waveform) <= 0.1


def test_a_strength_that_makes_no_sense_is_refused_with_its_name():
    with pytest.raises(ValueError, match=r"augment\.flip_prob: 2 is not a probability"):
        Augment(flip_prob=2)
    with pytest.raises(ValueError, match=r"augment\.hue: -1 is negative"):
        Augment(hue=-1)


def test_a_window_trains_on_a_run_of_seconds_whose_frames_and_sound_belong_together(realav, preprocessor):
    clips = AVSBenchMS3(root=realav, split="train")
    item = TrainingClips(clips, preprocessor, augment=Augment(window=2))[0]
    assert item["frames"].shape[0] == item["log_mel"].shape[0] == item["masks"].shape[0] == 2
    whole, run = clips.clip(0), clips.clip(0, slice(3, 5))
    np.testing.assert_array_equal(run.frames, whole.frames[3:5])
    np.testing.assert_array_equal(run.waveform, whole.waveform[3 * 16000 :])
    starts = {draw_window(5, Augment(window=2), np.random.default_rng(i)).start for i in range(50)}
    assert starts == {0, 1, 2, 3}


def test_a_window_longer_than_the_clip_is_refused():
    with pytest.raises(ValueError, match=r"augment.window: 9 s, but a clip has 5"):
        draw_window(5, Augment(window=9), np.random.default_rng(0))
