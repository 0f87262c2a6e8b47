"""The listening test: whether a model segments what it hears, or whatever it sees.

The paper names the failure as its limitation (IV-H) and does not measure it; the test is ours. Each clip is scored
with several sounds: its own, silence, the sound of a clip with other categories, a sound from off screen (of a category
that is neither seen nor heard in the clip), and noise alone, of one or more kinds. With silence, noise or a sound from
off screen nothing visible sounds, so every predicted pixel is a false positive.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdavs_model.analysis.noise_mixing import Noise, rms
from sdavs_model.analysis.sound_conditions import OFF_SCREEN, RIGHT, SILENCE, SWAPPED
from sdavs_model.audio_control import AudioControlled, ReplacedSound, swap_partners
from sdavs_model.data.core.clip import SAMPLE_RATE

NOISE_RMS = 0.08
"""Root mean square of the noise that replaces the sound: -22 dBFS, a usual level of speech and of RealAV's sources."""


class OffScreenSound(ReplacedSound):
    """Clips with the sound of another clip, of categories that are neither seen nor heard in this one.

    Args:
        clips: a data set with `categories` and `seen`, such as `TrainingClips`.

    Raises:
        ValueError: the data set does not record what is seen and heard, or a clip has no such partner.
    """

    def __init__(self, clips: Any) -> None:
        super().__init__(clips)
        if not all(clips.seen):
            raise ValueError("off-screen: the data set does not record which categories its clips show")
        self.partners = swap_partners(clips.categories, seen=clips.seen)

    def replace_sound(self, index: int, log_mel: Tensor) -> Tensor:
        return self.clips[self.partners[index]]["log_mel"]


class NoiseOnly(ReplacedSound):
    """Clips with noise in place of their sound, at `NOISE_RMS`."""

    def __init__(self, clips: Any, *, noise: Noise) -> None:
        super().__init__(clips)
        self.noise = noise

    def replace_sound(self, index: int, log_mel: Tensor) -> Tensor:
        noise = self.noise(len(log_mel) * SAMPLE_RATE, index)
        return self.clips.preprocessor.log_mel(noise * np.float32(NOISE_RMS / rms(noise)), len(log_mel))


def listening_sounds(
    clips: Any, *, silence: Tensor, noises: Mapping[str, Noise]
) -> tuple[dict[str, ReplacedSound], dict[str, str]]:
    """The conditions that a data set allows, by name, and the reason for each that it does not allow.

    Args:
        clips: a data set with `categories`, `seen` and a `preprocessor`.
        silence: [1, 96, 64], the log-mel example of silence.
        noises: the noises to hear alone, by condition.
    """
    makers: dict[str, Callable[[], ReplacedSound]] = {
        RIGHT: lambda: AudioControlled(clips, control="right", silence=silence),
        SILENCE: lambda: AudioControlled(clips, control="muted", silence=silence),
        SWAPPED: lambda: AudioControlled(clips, control="swapped", silence=silence),
        OFF_SCREEN: lambda: OffScreenSound(clips),
    } | {name: functools.partial(NoiseOnly, clips, noise=noise) for name, noise in noises.items()}
    sounds: dict[str, ReplacedSound] = {}
    left_out: dict[str, str] = {}
    for name, make in makers.items():
        try:
            sounds[name] = make()
        except ValueError as error:
            left_out[name] = str(error)
    return sounds, left_out


def nothing_visible_sounds(name: str, sound: ReplacedSound, index: int, masks: Tensor) -> Tensor:
    """The frames of clip `index` in which nothing visible makes this sound, [T] bool.

    Every pixel that is predicted there is a false positive. With the clip's own sound these are the frames with an
    empty mask. A swapped sound may belong to something that is seen and silent in the clip, so its frames count only
    where the data set records that it does not.
    """
    if name == RIGHT:
        return masks.flatten(1).sum(1) == 0
    if name == SWAPPED:
        clips = sound.clips
        seen, heard = clips.seen[index], clips.categories[sound.partners[index]]  # type: ignore[attr-defined]
        silent = bool(seen) and set(seen.split("+")).isdisjoint(heard.split("+"))
        return torch.full((len(masks),), silent)
    return torch.ones(len(masks), dtype=torch.bool)
