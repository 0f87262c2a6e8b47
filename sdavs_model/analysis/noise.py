"""Noise under a clip's sound (paper IV-D and Table IX): Brownian, a moving train, or any recording."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from sdavs_model.data.core.audio import read_audio
from sdavs_model.data.core.clip import SAMPLE_RATE
from sdavs_model.data.realav.asset_library import ASSETS_FOLDER
from sdavs_model.engine import OtherSound

PAPER_FACTOR = 0.1
"""The paper's scaling factor."""
ORIGINAL = "original audio"
"""Name of the condition without added noise."""
LOWEST_HZ = 20.0
"""Brownian noise begins here (our choice: the lower limit of hearing). Without a limit nearly all of its energy
would lie in a drift of fractions of a hertz, which nobody hears and which would use up the level."""
TRAIN_RECORDING = ASSETS_FOLDER / "noises" / "moving_train_03.flac"
"""A recording of a moving train that the bundled data set's training split does not use."""


class Noise(Protocol):
    """A kind of noise; the same index gives the same samples."""

    def __call__(self, num_samples: int, index: int) -> np.ndarray:
        """[num_samples] float32 for clip `index`, peak 1."""


class BrownianNoise:
    """Noise whose power falls by 6 dB an octave (amplitude 1 / f), drawn anew for each clip."""

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def __call__(self, num_samples: int, index: int) -> np.ndarray:
        white = np.random.default_rng([self.seed, index]).standard_normal(num_samples)
        hertz = np.fft.rfftfreq(num_samples, 1 / SAMPLE_RATE)
        audible = hertz >= LOWEST_HZ
        gain = np.divide(1.0, hertz, out=np.zeros_like(hertz), where=audible)
        return _peak_one(np.fft.irfft(np.fft.rfft(white) * gain, num_samples))


class RecordedNoise:
    """A recording, repeated as needed, from a place that differs from clip to clip.

    Args:
        path: any sound file; mixed to mono at 16 kHz.
        seed: of the places.

    Raises:
        ValueError: the file is missing, corrupt, or silent.
    """

    def __init__(self, path: str | Path = TRAIN_RECORDING, *, seed: int) -> None:
        self.recording = read_audio(path)
        if not self.recording.any():
            raise ValueError(f"{path}: is silent")
        self.seed = seed

    def __call__(self, num_samples: int, index: int) -> np.ndarray:
        start = int(np.random.default_rng([self.seed, index]).integers(len(self.recording)))
        return _peak_one(np.take(self.recording, np.arange(start, start + num_samples), mode="wrap"))


def add_scaled(waveform: np.ndarray, noise: np.ndarray, factor: float) -> np.ndarray:
    """waveform + factor * noise over the whole clip, the paper's mixing; noise has peak 1 (our reading)."""
    return waveform + np.float32(factor) * noise


def add_at_snr(waveform: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """waveform + noise at a ratio of their mean powers over the whole clip, in dB.

    A clip without any sound stays as it is: no level of noise has the ratio.
    """
    gain = rms(waveform) / rms(noise) * 10 ** (-snr_db / 20)
    return waveform + np.float32(gain) * noise


def snr_of_factor(waveform: np.ndarray, noise: np.ndarray, factor: float) -> float:
    """The signal-to-noise ratio in dB that `add_scaled` makes; -inf for a clip without sound."""
    level = rms(waveform)
    return float(20 * np.log10(level / (factor * rms(noise)))) if level > 0 else float("-inf")


def rms(waveform: np.ndarray) -> float:
    """Root mean square of [N] samples."""
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))


class NoisySound(OtherSound):
    """Clips with noise under their own sound.

    Args:
        clips: a data set that gives `waveform(index)` and has a `preprocessor`, such as `TrainingClips`.
        noise: which noise.
        factor: for `add_scaled`; or
        snr_db: for `add_at_snr`. One of the two.

    Raises:
        ValueError: on reading, a clip has no sound file (stored log-mel features cannot be mixed).
    """

    def __init__(
        self, clips: Any, *, noise: Noise, factor: float | None = None, snr_db: float | None = None
    ) -> None:
        assert (factor is None) != (snr_db is None)
        super().__init__(clips)
        self.noise, self.factor, self.snr_db = noise, factor, snr_db

    def hear(self, index: int, log_mel: Tensor) -> Tensor:
        waveform = self.clips.waveform(index)
        noise = self.noise(len(waveform), index)
        if self.factor is not None:
            noisy = add_scaled(waveform, noise, self.factor)
        else:
            assert self.snr_db is not None
            noisy = add_at_snr(waveform, noise, self.snr_db)
        return self.clips.preprocessor.log_mel(noisy, len(log_mel))


def factor_condition(noise: str) -> str:
    """The name of the condition with a noise at the paper's factor."""
    return f"{noise} x {PAPER_FACTOR}"


def snr_condition(noise: str, snr_db: int) -> str:
    """The name of the condition with a noise at a ratio in dB."""
    return f"{noise} {snr_db} dB"


def _peak_one(samples: np.ndarray) -> np.ndarray:
    return (samples / np.abs(samples).max()).astype(np.float32)
