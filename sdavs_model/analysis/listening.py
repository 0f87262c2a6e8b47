"""The listening test: does a model mark what it hears, or what it sees?

The paper names the failure as its limitation (IV-H) and does not measure it; the test is ours.
Each clip is shown under five sounds: its own, silence, that of a clip with other sounds, a sound from off screen
(of a category neither seen nor heard in the clip), and noise alone. With the last two and with silence nothing
visible sounds, so every marked pixel is wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdavs_model.analysis.noise import Noise, rms
from sdavs_model.data.core.clip import SAMPLE_RATE
from sdavs_model.engine import AudioControlled, OtherSound, swap_partners

RIGHT, SILENCE, SWAPPED, OFF_SCREEN, NOISE_ONLY = "right", "silence", "swapped", "off-screen", "noise only"
NOISE_RMS = 0.08
"""Level of the noise that takes the place of the sound: -22 dBFS, a usual level of speech and of RealAV's sources."""


class OffScreenSound(OtherSound):
    """Clips with the sound of another clip, of categories that are neither seen nor heard in this one.

    Args:
        clips: a data set with `categories` and `seen`, such as `TrainingClips`.

    Raises:
        ValueError: the data set does not say what is seen and heard, or a clip has no such partner.
    """

    def __init__(self, clips: Any) -> None:
        super().__init__(clips)
        if not all(clips.seen):
            raise ValueError("off-screen: the data set does not say which categories its clips show")
        self.partners = swap_partners(clips.categories, seen=clips.seen)

    def hear(self, index: int, log_mel: Tensor) -> Tensor:
        return self.clips[self.partners[index]]["log_mel"]


class NoiseOnly(OtherSound):
    """Clips with nothing but noise to hear, at `NOISE_RMS`."""

    def __init__(self, clips: Any, *, noise: Noise) -> None:
        super().__init__(clips)
        self.noise = noise

    def hear(self, index: int, log_mel: Tensor) -> Tensor:
        noise = self.noise(len(log_mel) * SAMPLE_RATE, index)
        return self.clips.preprocessor.log_mel(noise * np.float32(NOISE_RMS / rms(noise)), len(log_mel))


def five_sounds(clips: Any, *, silence: Tensor, noise: Noise) -> tuple[dict[str, OtherSound], dict[str, str]]:
    """The five conditions by name, and for each that the data set does not allow the reason.

    Args:
        clips: a data set with `categories`, `seen` and a `preprocessor`.
        silence: [1, 96, 64], the log-mel example of silence.
        noise: for "noise only".
    """
    makers = {
        RIGHT: lambda: AudioControlled(clips, control="right", silence=silence),
        SILENCE: lambda: AudioControlled(clips, control="muted", silence=silence),
        SWAPPED: lambda: AudioControlled(clips, control="swapped", silence=silence),
        OFF_SCREEN: lambda: OffScreenSound(clips),
        NOISE_ONLY: lambda: NoiseOnly(clips, noise=noise),
    }
    sounds: dict[str, OtherSound] = {}
    left_out: dict[str, str] = {}
    for name, make in makers.items():
        try:
            sounds[name] = make()
        except ValueError as error:
            left_out[name] = str(error)
    return sounds, left_out


def nothing_visible_sounds(name: str, sound: OtherSound, index: int, masks: Tensor) -> Tensor:
    """[T] bool: the frames of clip `index` in which, under this sound, every marked pixel is wrong.

    With the right sound these are the frames whose mask is empty. A swapped sound may belong to something that
    is seen and silent in the clip, so it counts only where the data set says that it does not.
    """
    if name == RIGHT:
        return masks.flatten(1).sum(1) == 0
    if name == SWAPPED:
        clips = sound.clips
        seen, heard = clips.seen[index], clips.categories[sound.partners[index]]  # type: ignore[attr-defined]
        silent = bool(seen) and set(seen.split("+")).isdisjoint(heard.split("+"))
        return torch.full((len(masks),), silent)
    return torch.ones(len(masks), dtype=torch.bool)
