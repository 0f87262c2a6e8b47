"""Who is seen and heard in RealAV's subsets: one source, several, or sound without its object."""

from __future__ import annotations

from sdavs_model.data.core.draw import Draw
from sdavs_model.data.realav.bundle import Pool
from sdavs_model.data.realav.compose import Scene, Source, draw_run, draw_runs, sounding_seconds

FAMILIES = {
    "mammal": "ape badger bear bison camel cat cow deer dog dolphin donkey elephant ferret fox goat hippopotamus "
    "horse koala lion mouse orca pig rabbit sea_lion sheep squirrel tiger whale zebra",
    "bird": "bird chicken crow cuckoo duck goose heron owl penguin quetzal rooster seagull songbird tucan turkey "
    "vulture waterfowl",
    "vehicle": "airplane bus car fire_truck ship truck",
    "instrument": "acoustic_guitar bassoon cello cymbal drum_kit electric_guitar guitar tom_drum trumpet violin",
    "tool": "camera hammer hand_saw kettle rubber_duck scissors toilet",
    "small animal": "frog grasshopper_cricket wasp_bee",
    "nature": "fire lightning",
    "person": "person",
}
"""Categories that look or sound alike, for silent look-alikes; our grouping."""


def family(category: str) -> str:
    """The family of a category; one that is in none is a family of its own."""
    return next((name for name, members in FAMILIES.items() if category in members.split()), category)


def draw_single_scene(draw: Draw, pool: Pool, num_seconds: int, *, category: str) -> Scene:
    """S4's kind: one object sounds throughout, beside up to two silent ones."""
    others = [other for other in sorted(pool.photos) if other != category]
    silent = draw.sample(others, draw.weighted((30, 45, 25)))
    sources = [_seen(category, (True,) * num_seconds), *(_seen(c, (False,) * num_seconds) for c in silent)]
    return Scene(sources=tuple(draw.sample(sources, len(sources))), noise=_draw_noise(draw, pool))


def draw_multi_scene(draw: Draw, pool: Pool, num_seconds: int) -> Scene:
    """MS3's kind: two or three visible objects sound, each in its time; some clips hide one more source."""
    sounding = draw.sample(pool.categories, 2 + draw.weighted((70, 30)))
    silent = draw.sample([c for c in sorted(pool.photos) if c not in sounding], draw.weighted((60, 40)))
    runs = draw_runs(draw, len(sounding), num_seconds)
    sources = [
        *(_seen(c, sounding_seconds(run, num_seconds)) for c, run in zip(sounding, runs, strict=True)),
        *(_seen(c, (False,) * num_seconds) for c in silent),
    ]
    unseen = [c for c in sorted(pool.sounds) if c not in (*sounding, *silent)]
    hidden = [
        _hidden(c, sounding_seconds(draw_run(draw, num_seconds), num_seconds))
        for c in draw.sample(unseen, int(draw.percent(20)))
    ]
    return Scene(sources=(*draw.sample(sources, len(sources)), *hidden), noise=_draw_noise(draw, pool))


def draw_offscreen_scene(draw: Draw, pool: Pool, num_seconds: int) -> Scene:
    """Sound without its object: one or two sources are heard only, and what is seen looks like them.

    In half of the clips nothing that is seen ever sounds, and every mask is empty.
    """
    hidden = draw.sample(sorted(pool.sounds), 1 + int(draw.percent(35)))
    families = {family(c) for c in hidden}
    seen = [c for c in sorted(pool.photos) if c not in hidden]
    alike = [c for c in seen if family(c) in families]
    silent = draw.sample(alike, min(len(alike), 1 + int(draw.percent(40))))
    if not silent:
        silent = draw.sample(seen, 1)
    sounding = draw.sample([c for c in pool.categories if c not in (*hidden, *silent)], int(draw.percent(50)))
    sources = [
        *(_seen(c, sounding_seconds(draw_run(draw, num_seconds), num_seconds)) for c in sounding),
        *(_seen(c, (False,) * num_seconds) for c in silent),
    ]
    # One of the hidden sources is heard throughout, so that an empty mask is never a silent second.
    runs = [(0, num_seconds), *(draw_run(draw, num_seconds) for _ in hidden[1:])]
    heard = [_hidden(c, sounding_seconds(run, num_seconds)) for c, run in zip(hidden, runs, strict=True)]
    return Scene(sources=(*draw.sample(sources, len(sources)), *heard), noise=_draw_noise(draw, pool))


def _draw_noise(draw: Draw, pool: Pool) -> str | None:
    return draw.pick(sorted(pool.noises)) if pool.noises and draw.percent(30) else None


def _seen(category: str, seconds: tuple[bool, ...]) -> Source:
    return Source(category=category, seen=True, seconds=seconds)


def _hidden(category: str, seconds: tuple[bool, ...]) -> Source:
    return Source(category=category, seen=False, seconds=seconds)
