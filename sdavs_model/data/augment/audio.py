"""Augmentation of sound. Every second is changed by itself, so nothing moves in time."""

import numpy as np
import torch

from sdavs_model.data.augment.config import Augment
from sdavs_model.data.core.clip import SAMPLE_RATE

EQUALIZER_POINTS_HZ = np.array([50, 125, 250, 500, 1000, 2000, 4000, 8000])


def vary(waveform: np.ndarray, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    """[T * 16000] float32 -> the same length: pitch, frequency response, coloured noise and loudness.

    Filtering in the frequency domain of one second at a time costs a few milliseconds a clip, and a silent
    second stays exactly silent until noise is added.
    """
    seconds = waveform.reshape(-1, SAMPLE_RATE)
    if augment.pitch > 0:
        seconds = _change_pitch(seconds, 1 + rng.uniform(-augment.pitch, augment.pitch))
    hertz = np.fft.rfftfreq(SAMPLE_RATE, 1 / SAMPLE_RATE).astype(np.float32)
    response = _response(hertz, augment.equalizer_db, augment.band_prob, rng)
    spectrum = np.fft.rfft(seconds).astype(np.complex64) * response
    level = np.sqrt(np.mean(waveform**2))
    varied = np.fft.irfft(spectrum, SAMPLE_RATE).astype(np.float32)
    if rng.random() < augment.sound_noise_prob:
        loudest_db = augment.sound_noise_db
        noise_level = level * 10 ** (rng.uniform(loudest_db - 40, loudest_db) / 20)
        varied += noise_level * _coloured_noise(hertz, len(seconds), rng)
    # The filters change the level; it is put back, so that only `gain_db` decides the loudness.
    new_level = np.sqrt(np.mean(varied**2))
    gain = 10 ** (rng.uniform(-augment.gain_db, augment.gain_db) / 20)
    if new_level > 0:
        varied *= gain * level / new_level
    return np.clip(varied, -1, 1).reshape(-1).astype(np.float32)


def mask_log_mel(
    log_mel: torch.Tensor, *, time_frames: int, bands: int, silence: float, rng: np.random.Generator
) -> torch.Tensor:
    """SpecAugment on [T, 1, F, M]: one stretch of each second and one band of the clip become silence."""
    masked = log_mel.clone()
    for example in masked:
        length = int(rng.integers(time_frames + 1))
        start = int(rng.integers(log_mel.shape[-2] - length + 1))
        example[:, start : start + length] = silence
    width = int(rng.integers(bands + 1))
    lowest = int(rng.integers(log_mel.shape[-1] - width + 1))
    masked[..., lowest : lowest + width] = silence
    return masked


def _change_pitch(seconds: np.ndarray, factor: float) -> np.ndarray:
    """Play each second `factor` times as fast from its own start; what is missing is its end, mirrored."""
    last = seconds.shape[1] - 1
    position = np.arange(seconds.shape[1]) * factor
    position = np.where(position > last, 2 * last - position, position)
    below = np.minimum(position.astype(np.int64), last - 1)
    weight = (position - below).astype(np.float32)
    return seconds[:, below] * (1 - weight) + seconds[:, below + 1] * weight


def _response(
    hertz: np.ndarray, equalizer_db: float, band_prob: float, rng: np.random.Generator
) -> np.ndarray:
    """A smooth random frequency response, with a low-pass and a high-pass at times; amplitude, one a bin."""
    knots = rng.uniform(-equalizer_db, equalizer_db, len(EQUALIZER_POINTS_HZ))
    log_hertz = np.log(np.maximum(hertz, 1))
    decibels = np.interp(log_hertz, np.log(EQUALIZER_POINTS_HZ), knots)
    if rng.random() < band_prob:
        decibels -= 24 * np.maximum(0, log_hertz - np.log(rng.uniform(2000, 7000))) / np.log(2)
    if rng.random() < band_prob:
        decibels -= 12 * np.maximum(0, np.log(rng.uniform(60, 500)) - log_hertz) / np.log(2)
    return (10 ** (decibels / 20)).astype(np.float32)


def _coloured_noise(hertz: np.ndarray, num_seconds: int, rng: np.random.Generator) -> np.ndarray:
    """[T, 16000] float32 of unit level, its spectrum falling with f^0 (white) to f^-1 (brown)."""
    shape = (num_seconds, len(hertz))
    spectrum = rng.standard_normal(shape, np.float32) + 1j * rng.standard_normal(shape, np.float32)
    spectrum *= np.maximum(hertz, 20) ** -rng.uniform(0, 1)
    noise = np.fft.irfft(spectrum, SAMPLE_RATE).astype(np.float32)
    return noise / np.sqrt(np.mean(noise**2))
