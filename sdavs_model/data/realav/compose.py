"""RealAV's composer: photographs and recordings -> clips in which some of the visible objects are heard.

The recipe is VPO's (cut-outs and recordings matched by category). A network must not solve the clips without
listening, so each shortcut is closed: most clips show silent objects of other categories from the same pool,
some sounds belong to nothing in the picture, sources start and stop, and no level, edge or position gives away who
sounds. The same seed gives the same clip, byte for byte, on any machine: every number that reaches a pixel
or a sample is an integer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from sdavs_model.data.core.clip import Clip
from sdavs_model.data.realav import compose_audio, compose_frames
from sdavs_model.data.realav.asset_library import Pool
from sdavs_model.data.realav.scenes import Scene, draw_scene
from sdavs_model.data.realav.stable_random import StableRandom

COMPOSER_VERSION = 4
"""Goes up with every change that alters a clip, so that prepared data sets are composed again."""


def compose_clip(
    *,
    name: str,
    seed: Sequence[int],
    pool: Pool,
    size: int,
    num_frames: int,
    scenes: Callable[[StableRandom, Pool, int], Scene] | None = None,
    classes: Mapping[str, int] | None = None,
) -> tuple[Clip, Scene]:
    """Make one clip: T frames of one second each, T seconds of sound, and a mask per frame.

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
        The clip, masks in {0, 1} or of `classes` and `objects` in the order of the scene's seen sources, and the
        scene it shows.

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
    rng = StableRandom(seed)
    scene = (scenes or draw_scene)(rng, pool, num_frames)
    samples, heard = compose_audio.render(rng, pool, scene, num_frames)
    frames, owners, seen = compose_frames.render(rng, pool, scene, size, num_frames)
    masks = np.zeros_like(owners)
    for index, source in enumerate(source for source in scene.sources if source.seen):
        for second, sounds in enumerate(source.seconds):
            if sounds:
                masks[second][owners[second] == index + 1] = (
                    1 if classes is None else classes[source.category]
                )
    waveform = samples.astype(np.float32) / 32768
    clip = Clip(name=name, frames=frames, masks=masks, waveform=waveform, objects=owners)
    return clip, replace(scene, assets=(*seen, *heard))
