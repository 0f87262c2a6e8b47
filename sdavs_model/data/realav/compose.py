"""RealAV's composer: photographs and recordings -> clips in which some of what is seen is heard.

The recipe is VPO's (cut-outs and recordings matched by category). A network must not solve the clips without
listening, so each shortcut is closed: most clips show silent objects of other categories from the same pool,
some sounds belong to nothing in the picture, sources start and stop, and no level, edge or place tells who
sounds. The same seed gives the same clip, byte for byte, on any machine: every number that reaches a pixel
or a sample is an integer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sdavs_model.data.core.clip import Clip
from sdavs_model.data.core.draw import Draw
from sdavs_model.data.realav import compose_audio as compose_sound
from sdavs_model.data.realav import compose_frames as compose_picture
from sdavs_model.data.realav.bundle import Pool

COMPOSER_VERSION = 4
"""Goes up with every change that alters a clip, so that prepared data are made anew."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One category in a clip."""

    category: str
    seen: bool
    seconds: tuple[bool, ...]
    """In which seconds it sounds; all False for a silent object."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Who is seen and heard, and when: the truth from which picture, sound and mask are all made."""

    sources: tuple[Source, ...]
    noise: str | None
    """The kind of environment noise under the whole clip."""
    assets: tuple[str, ...] = field(default=(), repr=False)
    """sha256 of every picture and recording that the clip was made of; filled in when it is composed."""

    def record(self) -> dict:
        """The JSON that is stored beside a clip: categories heard and seen, also second by second."""
        heard = {source.category for source in self.sources if any(source.seconds)}
        num_seconds = len(self.sources[0].seconds)
        return {
            "heard": sorted(heard),
            "seen": sorted(source.category for source in self.sources if source.seen),
            "seconds": [
                {
                    "sounding": sorted(s.category for s in self.sources if s.seen and s.seconds[second]),
                    "off_screen": sorted(
                        s.category for s in self.sources if not s.seen and s.seconds[second]
                    ),
                }
                for second in range(num_seconds)
            ],
            "noise": self.noise,
            "assets": sorted(self.assets),
        }


def compose_clip(
    *,
    name: str,
    seed: Sequence[int],
    pool: Pool,
    size: int,
    num_frames: int,
    scenes: Callable[[Draw, Pool, int], Scene] | None = None,
    classes: Mapping[str, int] | None = None,
) -> tuple[Clip, Scene]:
    """Makes one clip: T frames of one second each, T seconds of sound, and a mask per frame.

    The mask of frame i holds the visible pixels of the objects that sound in second i. Such an object is
    audible for at least 0.7 s of that second, and its recording is exactly silent in the others.

    Args:
        name: the clip's name.
        seed: integers, for example (data seed, split, index).
        pool: the assets to use.
        size: side of the square frames in pixels.
        num_frames: T.
        scenes: chooses who is seen and heard; None for `draw_scene`.
        classes: the mask's value for each category; None for 1 wherever something sounds.

    Returns:
        The clip, masks in {0, 1} or of `classes`, and the scene it shows.

    Raises:
        ValueError: fewer than 4 categories in the pool, no background, a size below 32 or no frames.
    """
    if len(pool.categories) < 4 or not pool.backgrounds:
        raise ValueError(
            f"{name}: needs 4 categories and a background, the pool has "
            f"{len(pool.categories)} and {len(pool.backgrounds)}"
        )
    if size < 32 or num_frames < 1:
        raise ValueError(f"{name}: needs a size of 32 or more and a frame, not {size} and {num_frames}")
    draw = Draw(seed)
    scene = (scenes or draw_scene)(draw, pool, num_frames)
    samples, heard = compose_sound.render(draw, pool, scene, num_frames)
    frames, owners, seen = compose_picture.render(draw, pool, scene, size, num_frames)
    masks = np.zeros_like(owners)
    for index, source in enumerate(source for source in scene.sources if source.seen):
        for second, sounds in enumerate(source.seconds):
            if sounds:
                masks[second][owners[second] == index + 1] = (
                    1 if classes is None else classes[source.category]
                )
    clip = Clip(name=name, frames=frames, masks=masks, waveform=samples.astype(np.float32) / 32768)
    return clip, replace(scene, assets=(*seen, *heard))


def draw_scene(draw: Draw, pool: Pool, num_seconds: int) -> Scene:
    """Chooses the categories (each at most once, or the truth would be a guess) and when they sound."""
    num_sounding = draw.weighted((2, 62, 31, 5))
    num_silent = draw.weighted((12, 60, 28)) if num_sounding < 3 else draw.below(2)
    if num_sounding == 0:
        num_silent = max(num_silent, 1)
    # A picture without a sounding object has something off screen to hear: silence is no hint.
    num_hidden = 1 if num_sounding == 0 else int(draw.percent(12))
    chosen = draw.sample(pool.categories, min(num_sounding + num_silent, 4))
    runs = draw_runs(draw, num_sounding, num_seconds)
    sources = [
        Source(category=category, seen=True, seconds=sounding_seconds(run, num_seconds))
        for category, run in zip(chosen, runs + [(0, 0)] * (len(chosen) - len(runs)), strict=True)
    ]
    others = [category for category in sorted(pool.sounds) if category not in chosen]
    hidden = [
        Source(category=category, seen=False, seconds=sounding_seconds(run, num_seconds))
        for category, run in zip(
            draw.sample(others, num_hidden),
            [draw_run(draw, num_seconds) for _ in range(num_hidden)],
            strict=True,
        )
    ]
    noise = draw.pick(sorted(pool.noises)) if pool.noises and draw.percent(20) else None
    # Shuffled, and drawn back to front: who sounds must not follow from who stands in front.
    return Scene(sources=(*draw.sample(sources, len(sources)), *hidden), noise=noise)


def draw_runs(draw: Draw, num_sources: int, num_seconds: int) -> list[tuple[int, int]]:
    """When each source sounds. In nine of ten clips some source sounds in every second.

    The others have frames without any. They stay few because AVSBench's J counts such a frame as right for
    whoever predicts nothing: too many, and silence is a good answer.
    """
    runs = sorted(draw_run(draw, num_seconds) for _ in range(num_sources))
    if runs and draw.percent(90):
        runs[0] = (0, runs[0][1])
        for index in range(1, len(runs)):
            heard_until = max(stop for _, stop in runs[:index])
            start, stop = runs[index]
            runs[index] = (min(start, heard_until), stop)
        last = max(range(len(runs)), key=lambda index: runs[index][1])
        runs[last] = (runs[last][0], num_seconds)
    return draw.sample(runs, len(runs))


def draw_run(draw: Draw, num_seconds: int) -> tuple[int, int]:
    """First second and the one after the last; in a quarter of the cases the whole clip."""
    length = num_seconds if draw.percent(25) else draw.between(1, max(1, num_seconds - 1))
    start = draw.between(0, num_seconds - length)
    return start, start + length


def sounding_seconds(run: tuple[int, int], num_seconds: int) -> tuple[bool, ...]:
    """Whether each second lies in a run."""
    return tuple(run[0] <= second < run[1] for second in range(num_seconds))
