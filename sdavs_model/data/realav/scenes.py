"""The visible and audible objects of RealAV's subsets: one source, several, or sound without its object."""

from dataclasses import dataclass, field

from sdavs_model.data.realav.asset_library import Pool
from sdavs_model.data.realav.stable_random import StableRandom


@dataclass(frozen=True, kw_only=True)
class Source:
    """One category in a clip."""

    category: str
    seen: bool
    seconds: tuple[bool, ...]
    """In which seconds it sounds; all False for a silent object."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Which objects are visible and audible, and when; picture, sound and masks are made from this."""

    sources: tuple[Source, ...]
    noise: str | None
    """The kind of environment noise under the whole clip."""
    assets: tuple[str, ...] = field(default=(), repr=False)
    """sha256 of every picture and recording that the clip was made of; filled in when it is composed."""

    def record(self) -> dict:
        """The JSON that is stored next to a clip: categories heard and seen, also second by second.

        "objects" are those seen in the order in which they are drawn: the k-th has the value k in `Clip.objects`.
        """
        heard = {source.category for source in self.sources if any(source.seconds)}
        num_seconds = len(self.sources[0].seconds)
        return {
            "heard": sorted(heard),
            "seen": sorted(source.category for source in self.sources if source.seen),
            "objects": [source.category for source in self.sources if source.seen],
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


def draw_scene(rng: StableRandom, pool: Pool, num_seconds: int) -> Scene:
    """Choose the categories (each at most once, or the masks would be a guess) and when they sound."""
    num_sounding = rng.weighted((2, 62, 31, 5))
    num_silent = rng.weighted((12, 60, 28)) if num_sounding < 3 else rng.below(2)
    if num_sounding == 0:
        num_silent = max(num_silent, 1)
    # A picture without a sounding object has something off screen to hear: silence is no hint.
    num_hidden = 1 if num_sounding == 0 else int(rng.percent(12))
    chosen = rng.sample(pool.categories, min(num_sounding + num_silent, 4))
    runs = draw_runs(rng, num_sounding, num_seconds)
    sources = [
        Source(category=category, seen=True, seconds=sounding_seconds(run, num_seconds))
        for category, run in zip(chosen, runs + [(0, 0)] * (len(chosen) - len(runs)), strict=True)
    ]
    others = [category for category in sorted(pool.sounds) if category not in chosen]
    hidden = [
        Source(category=category, seen=False, seconds=sounding_seconds(run, num_seconds))
        for category, run in zip(
            rng.sample(others, num_hidden),
            [draw_run(rng, num_seconds) for _ in range(num_hidden)],
            strict=True,
        )
    ]
    noise = rng.pick(sorted(pool.noises)) if pool.noises and rng.percent(20) else None
    # Shuffled, and drawn back to front: who sounds must not follow from who is in front.
    return Scene(sources=(*rng.sample(sources, len(sources)), *hidden), noise=noise)


def draw_single_scene(rng: StableRandom, pool: Pool, num_seconds: int, *, category: str) -> Scene:
    """S4's kind: one object sounds throughout, with up to two silent ones."""
    others = [other for other in sorted(pool.photos) if other != category]
    silent = rng.sample(others, rng.weighted((30, 45, 25)))
    sources = [_seen(category, (True,) * num_seconds), *(_seen(c, (False,) * num_seconds) for c in silent)]
    return Scene(sources=tuple(rng.sample(sources, len(sources))), noise=_draw_noise(rng, pool))


def draw_multi_scene(rng: StableRandom, pool: Pool, num_seconds: int) -> Scene:
    """MS3's kind: two or three visible objects sound, each in its time; some clips hide one more source."""
    sounding = rng.sample(pool.categories, 2 + rng.weighted((70, 30)))
    silent = rng.sample([c for c in sorted(pool.photos) if c not in sounding], rng.weighted((60, 40)))
    runs = draw_runs(rng, len(sounding), num_seconds)
    sources = [
        *(_seen(c, sounding_seconds(run, num_seconds)) for c, run in zip(sounding, runs, strict=True)),
        *(_seen(c, (False,) * num_seconds) for c in silent),
    ]
    unseen = [c for c in sorted(pool.sounds) if c not in (*sounding, *silent)]
    hidden = [
        _hidden(c, sounding_seconds(draw_run(rng, num_seconds), num_seconds))
        for c in rng.sample(unseen, int(rng.percent(20)))
    ]
    return Scene(sources=(*rng.sample(sources, len(sources)), *hidden), noise=_draw_noise(rng, pool))


def draw_offscreen_scene(rng: StableRandom, pool: Pool, num_seconds: int) -> Scene:
    """Sound without its object: one or two sources are only heard, and the visible objects resemble them.

    In half of the clips nothing that is seen ever sounds, and every mask is empty.
    """
    hidden = rng.sample(sorted(pool.sounds), 1 + int(rng.percent(35)))
    families = {family(c) for c in hidden}
    seen = [c for c in sorted(pool.photos) if c not in hidden]
    alike = [c for c in seen if family(c) in families]
    silent = rng.sample(alike, min(len(alike), 1 + int(rng.percent(40))))
    if not silent:
        silent = rng.sample(seen, 1)
    sounding = rng.sample([c for c in pool.categories if c not in (*hidden, *silent)], int(rng.percent(50)))
    sources = [
        *(_seen(c, sounding_seconds(draw_run(rng, num_seconds), num_seconds)) for c in sounding),
        *(_seen(c, (False,) * num_seconds) for c in silent),
    ]
    # One of the hidden sources is heard throughout, so that an empty mask is never a silent second.
    runs = [(0, num_seconds), *(draw_run(rng, num_seconds) for _ in hidden[1:])]
    heard = [_hidden(c, sounding_seconds(run, num_seconds)) for c, run in zip(hidden, runs, strict=True)]
    return Scene(sources=(*rng.sample(sources, len(sources)), *heard), noise=_draw_noise(rng, pool))


def draw_runs(rng: StableRandom, num_sources: int, num_seconds: int) -> list[tuple[int, int]]:
    """When each source sounds. In nine of ten clips some source sounds in every second.

    The others have frames without any. They stay few because AVSBench's J counts such a frame as right for
    whoever predicts nothing: too many, and an empty mask is a good prediction.
    """
    runs = sorted(draw_run(rng, num_seconds) for _ in range(num_sources))
    if runs and rng.percent(90):
        runs[0] = (0, runs[0][1])
        for index in range(1, len(runs)):
            heard_until = max(stop for _, stop in runs[:index])
            start, stop = runs[index]
            runs[index] = (min(start, heard_until), stop)
        last = max(range(len(runs)), key=lambda index: runs[index][1])
        runs[last] = (runs[last][0], num_seconds)
    return rng.sample(runs, len(runs))


def draw_run(rng: StableRandom, num_seconds: int) -> tuple[int, int]:
    """First second and the one after the last; in a quarter of the cases the whole clip."""
    length = num_seconds if rng.percent(25) else rng.between(1, max(1, num_seconds - 1))
    start = rng.between(0, num_seconds - length)
    return start, start + length


def sounding_seconds(run: tuple[int, int], num_seconds: int) -> tuple[bool, ...]:
    """Whether each second belongs to a run."""
    return tuple(run[0] <= second < run[1] for second in range(num_seconds))


def _draw_noise(rng: StableRandom, pool: Pool) -> str | None:
    return rng.pick(sorted(pool.noises)) if pool.noises and rng.percent(30) else None


def _seen(category: str, seconds: tuple[bool, ...]) -> Source:
    return Source(category=category, seen=True, seconds=seconds)


def _hidden(category: str, seconds: tuple[bool, ...]) -> Source:
    return Source(category=category, seen=False, seconds=seconds)
