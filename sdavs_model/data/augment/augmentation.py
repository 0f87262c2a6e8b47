"""Augmentation of a whole clip: draws the changes and applies them to frames, masks and sound.

The demo learns from a few photographs and recordings, and a network that sees them unchanged overfits: without
augmentation its score peaks after minutes and then falls. So both modalities change a lot, but stay synchronous: what
sounds in second i is marked in frame i before and after.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from sdavs_model.data.augment import audio as sound
from sdavs_model.data.augment import frames as pictures
from sdavs_model.data.augment.config import Augment
from sdavs_model.data.core.clip import SAMPLE_RATE, Clip


class SharedEpoch:
    """The epoch for which a data set draws: the same (seed, epoch, index) gives the same item.

    It is shared with the processes that load clips, because they outlive an epoch.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._number = torch.zeros((), dtype=torch.int64).share_memory_()
        self._whole = torch.zeros((), dtype=torch.bool).share_memory_()

    def set(self, number: int, *, whole: bool = False) -> None:
        """Begin an epoch; `whole`: with whole clips in place of windows."""
        self._number.fill_(number)
        self._whole.fill_(whole)

    @property
    def has_whole_clips(self) -> bool:
        """Whether this epoch leaves windows out."""
        return bool(self._whole)

    def rng(self, index: int, *more: int) -> np.random.Generator:
        """The random numbers of an item in this epoch."""
        return np.random.default_rng([self._seed, int(self._number), index, *more])


def draw_window(
    num_frames: int,
    augment: Augment,
    rng: np.random.Generator,
    valid: Sequence[bool] | np.ndarray | None = None,
) -> slice:
    """The seconds of a clip of `num_frames` that are used this time; `valid` marks the frames with masks.

    Raises:
        ValueError: the window is longer than the clip.
    """
    if augment.window > num_frames:
        raise ValueError(f"augment.window: {augment.window} s, but a clip has {num_frames}")
    length = augment.window or num_frames
    starts = list(range(num_frames - length + 1))
    if valid is not None:
        # A window without any mask would teach nothing (S4 has a mask for the first frame alone).
        starts = [start for start in starts if any(valid[start : start + length])]
    start = starts[int(rng.integers(len(starts)))]
    return slice(start, start + length)


def augment_clip(clip: Clip, augment: Augment, size: int, rng: np.random.Generator) -> Clip:
    """Augment frames, masks and sound of one clip; frames and masks become [T, size, size]."""
    assert clip.masks is not None
    frames, masks, waveform, valid = clip.frames, clip.masks, clip.waveform, clip.valid
    if rng.random() < augment.reverse_prob:
        frames, masks = frames[::-1], masks[::-1]
        valid = None if valid is None else valid[::-1]
        waveform = waveform.reshape(-1, SAMPLE_RATE)[::-1].reshape(-1)
    frames, masks = augment_pictures(frames, masks, augment, size, rng)
    return Clip(
        name=clip.name,
        frames=frames,
        masks=masks,
        valid=valid,
        waveform=sound.vary(waveform, augment, rng),
    )


def augment_pictures(
    frames: np.ndarray, masks: np.ndarray, augment: Augment, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """[T, H, W, 3] and [T, H, W] uint8 -> the same at [T, size, size]; all frames of a clip alike."""
    frames, masks = pictures.move(
        frames,
        masks,
        size,
        flip=rng.random() < augment.flip_prob,
        zoom=augment.zoom,
        shift=augment.shift,
        rotation=augment.rotation,
        rng=rng,
    )
    if rng.random() < augment.blur_prob:
        frames = pictures.blur(frames, rng.uniform(0.005, 0.015) * size)
    frames = pictures.recolour(
        frames,
        brightness=augment.brightness,
        saturation=augment.saturation,
        hue=augment.hue,
        gray=rng.random() < augment.gray_prob,
        noise=augment.pixel_noise,
        rng=rng,
    )
    for _ in range(2):
        if rng.random() < augment.erase_prob:
            pictures.erase(frames, masks, rng)
    return frames, masks


def augment_log_mel(
    log_mel: torch.Tensor, augment: Augment, rng: np.random.Generator, *, silence: float
) -> torch.Tensor:
    """Silence a stretch of each second and one band of the whole clip (SpecAugment), [T, 1, frames, bands]."""
    return sound.mask_log_mel(
        log_mel,
        time_frames=augment.mel_time_mask,
        bands=augment.mel_band_mask,
        silence=silence,
        rng=rng,
    )


def mix(clip: Clip, other: np.ndarray, augment: Augment, rng: np.random.Generator) -> Clip:
    """Add another sound, [N] float32 of the clip's length or more, 0 to 12 dB below the clip's own."""
    assert augment.mix_prob > 0
    level = 10 ** (-rng.uniform(0, 12) / 20)
    mixed = clip.waveform + level * other[: len(clip.waveform)]
    return dataclasses.replace(clip, waveform=np.clip(mixed, -1, 1, dtype=np.float32))
