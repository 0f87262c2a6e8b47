"""The sound of a composed clip, in integers from the recording to the 16-bit sample."""

import math

import numpy as np

from sdavs_model.data.core.clip import SAMPLE_RATE
from sdavs_model.data.realav.asset_library import Pool
from sdavs_model.data.realav.scenes import Scene
from sdavs_model.data.realav.stable_random import StableRandom

NOMINAL_RMS = 2600
"""-22 dBFS: a typical level that leaves three sources room in 16 bits."""
FADE = 320  # 20 ms
LATEST_START = 640  # 40 ms at either end of a run, so 0.7 s stay audible in every marked second


def render(rng: StableRandom, pool: Pool, scene: Scene, num_seconds: int) -> tuple[np.ndarray, list[str]]:
    """[T * 16000] int16: every source in its seconds and nowhere else, over the environment noise; and the
    sha256 of every recording used."""
    used = []
    total = np.zeros(num_seconds * SAMPLE_RATE, np.int64)
    for source in scene.sources:
        if not any(source.seconds):
            continue
        first = source.seconds.index(True)
        start = first * SAMPLE_RATE + rng.below(LATEST_START)
        stop = (first + sum(source.seconds)) * SAMPLE_RATE - rng.below(LATEST_START)
        # Level, and a low-pass on half of the sources: neither may tell a package or who is on screen.
        level = rng.between(60, 140) * NOMINAL_RMS // 100
        width = rng.pick((1, 1, 1, 2, 3, 4))
        recording = rng.pick(pool.sounds[source.category])
        used.append(recording.sha256)
        total[start:stop] += play(rng, recording.samples, stop - start, level=level, low_pass=width)
    if scene.noise is not None:
        level = rng.between(6, 35) * NOMINAL_RMS // 100
        noise = rng.pick(pool.noises[scene.noise])
        used.append(noise.sha256)
        total += play(rng, noise.samples, len(total), level=level, low_pass=1)
    volume = rng.between(50, 130)
    return np.clip(total * volume // 100, -32768, 32767).astype(np.int16), used


def play(rng: StableRandom, recording: np.ndarray, length: int, *, level: int, low_pass: int) -> np.ndarray:
    """[length] int64 of a recording from a random place on, repeated as needed, at an exact RMS level."""
    looped = _faded(recording.astype(np.int64), 80)
    offset = rng.below(len(looped))
    repeats = -(-(offset + length) // len(looped))
    sound = np.tile(looped, repeats)[offset : offset + length]
    if low_pass > 1:
        sums = np.cumsum(np.concatenate([np.zeros(low_pass, np.int64), sound]))
        sound = (sums[low_pass:] - sums[:-low_pass]) // low_pass
    sound = _faded(sound, FADE)
    rms = max(1, math.isqrt(int(np.sum(sound * sound)) // length))
    return sound * level // rms


def _faded(sound: np.ndarray, length: int) -> np.ndarray:
    """The sound with a linear ramp at both ends."""
    length = min(length, len(sound) // 2)
    ramp = np.arange(length, dtype=np.int64)
    faded = sound.copy()
    faded[:length] = faded[:length] * ramp // max(1, length)
    faded[len(sound) - length :] = faded[len(sound) - length :] * ramp[::-1] // max(1, length)
    return faded
