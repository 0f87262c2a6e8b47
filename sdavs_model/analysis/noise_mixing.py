"""Noise mixed into a clip's sound (paper IV-D and Table IX): Brownian, a moving train, or any recording."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from sdavs_model.audio_control import ReplacedSound
from sdavs_model.data.core.audio import read_audio
from sdavs_model.data.core.clip import SAMPLE_RATE
from sdavs_model.data.realav.asset_library import ASSETS_FOLDER

LOWEST_HZ = 20.0
"""Lowest frequency of Brownian noise (our choice: the lower limit of hearing). Without a limit nearly all of its
energy would lie in an inaudible drift of fractions of a hertz."""
TRAIN_RECORDING = ASSETS_FOLDER / "noises" / "moving_train_03.flac"
"""A recording of a moving train that the bundled data set's training split does not use."""


class Noise(Protocol):
    """A kind of noise; the same clip index gives the same samples."""

    def __call__(self, num_samples: int, index: int) -> np.ndarray:
        """[num_samples] float32 for clip `index`, peak 1."""


class BrownianNoise:
    """Noise whose power falls by 6 dB an octave (amplitude 1 / f), drawn for each clip."""

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def __call__(self, num_samples: int, index: int) -> np.ndarray:
        white = np.random.default_rng([self.seed, index]).standard_normal(num_samples)
        hertz = np.fft.rfftfreq(num_samples, 1 / SAMPLE_RATE)
        audible = hertz >= LOWEST_HZ
        gain = np.divide(1.0, hertz, out=np.zeros_like(hertz), where=audible)
        return _peak_one(np.fft.irfft(np.fft.rfft(white) * gain, num_samples))


class WhiteNoise:
    """Independent samples, uniform in [-1, 1], drawn for each clip: AVSBench-Robust's noise."""

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def __call__(self, num_samples: int, index: int) -> np.ndarray:
        return _peak_one(np.random.default_rng([self.seed, index]).uniform(-1, 1, num_samples))


class RecordedNoise:
    """A recording, looped, from a random offset for each clip.

    Args:
        path: any sound file; mixed to mono at 16 kHz.
        seed: of the offsets.

    Raises:
        ValueError: the file is missing, corrupt or silent.
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

    A silent clip is returned unchanged: no level of noise has the ratio.
    """
    gain = rms(waveform) / rms(noise) * 10 ** (-snr_db / 20)
    return waveform + np.float32(gain) * noise


def snr_of_factor(waveform: np.ndarray, noise: np.ndarray, factor: float) -> float:
    """The signal-to-noise ratio in dB that results from `add_scaled`; -inf for a silent clip."""
    level = rms(waveform)
    return float(20 * np.log10(level / (factor * rms(noise)))) if level > 0 else float("-inf")


def rms(waveform: np.ndarray) -> float:
    """Root mean square of [N] samples."""
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))


class NoisySound(ReplacedSound):
    """Clips with noise added to their own sound.

    Args:
        clips: a data set that gives `waveform(index)` and has a `preprocessor`, such as `TrainingClips`.
        noise: the noise.
        factor: mix with `add_scaled`; or
        snr_db: mix with `add_at_snr`. Exactly one of the two.

    Raises:
        ValueError: in `replace_sound`, a clip has no sound file (stored log-mel features cannot be mixed).
    """

    def __init__(
        self, clips: Any, *, noise: Noise, factor: float | None = None, snr_db: float | None = None
    ) -> None:
        assert (factor is None) != (snr_db is None)
        super().__init__(clips)
        self.noise, self.factor, self.snr_db = noise, factor, snr_db

    def replace_sound(self, index: int, log_mel: Tensor) -> Tensor:
        waveform = self.clips.waveform(index)
        noise = self.noise(len(waveform), index)
        if self.factor is not None:
            noisy = add_scaled(waveform, noise, self.factor)
        else:
            assert self.snr_db is not None
            noisy = add_at_snr(waveform, noise, self.snr_db)
        return self.clips.preprocessor.log_mel(noisy, len(log_mel))


def _peak_one(samples: np.ndarray) -> np.ndarray:
    return (samples / np.abs(samples).max()).astype(np.float32)
