"""Sample clips of the page, composed from the bundled photographs and recordings at the first request."""

import io
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sdavs_model.data.realav.asset_library import AssetLibrary, Pool
from sdavs_model.data.realav.compose import compose_clip
from sdavs_model.data.realav.scenes import Scene, Source
from sdavs_model.data.realav.stable_random import StableRandom

SIZE = 256
"""Side of the square frames, in pixels: that of the backgrounds, so that nothing is scaled up much."""

NUM_FRAMES = 5


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One scene: what is in it, and what it demonstrates."""

    title: str
    about: str
    sources: tuple[Source, ...]
    seed: tuple[int, ...]
    """Determines positions and sizes; chosen by eye."""


def _seen(category: str, seconds: str) -> Source:
    return Source(category=category, seen=True, seconds=tuple(second == "x" for second in seconds))


def _heard(category: str, seconds: str) -> Source:
    return Source(category=category, seen=False, seconds=tuple(second == "x" for second in seconds))


SAMPLES: dict[str, Sample] = {
    "turns": Sample(
        title="Taking turns",
        about="A dog barks for two seconds, then the guitar plays.",
        sources=(_seen("dog", "xx---"), _seen("guitar", "--xxx")),
        seed=(7, 0, 0),
    ),
    "one-of-two": Sample(
        title="One of two",
        about="The sheep bleats. The cow is silent.",
        sources=(_seen("cow", "-----"), _seen("sheep", "xxxxx")),
        seed=(7, 1, 4),
    ),
    "both": Sample(
        title="Two at once",
        about="A chicken from the start, a person from the second second.",
        sources=(_seen("chicken", "xxxx-"), _seen("person", "-xxxx")),
        seed=(7, 3, 3),
    ),
    "off-screen": Sample(
        title="Heard, not seen",
        about="A bird sings off screen. The pig is silent, and nothing should be marked.",
        sources=(_seen("pig", "-----"), _heard("bird", "xxxxx")),
        seed=(7, 2, 2),
    ),
}
"""By name. Objects and recordings are training's, backgrounds are not: "new scenes", as the evaluation calls it."""


@dataclass(frozen=True, kw_only=True)
class SampleFiles:
    """A sample as files."""

    video: bytes
    """mp4 (H.264, AAC)."""
    poster: bytes
    """jpg of the first frame."""


class SampleClips:
    """The samples' files, made once in each ingress replica (about a second) and kept; about 60 kB each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, SampleFiles] = {}

    def files(self, name: str) -> SampleFiles:
        """The files of a sample.

        Raises:
            KeyError: there is no such sample.
        """
        with self._lock:
            if not self._files:
                pool = AssetLibrary().pool("train", backgrounds="test")
                self._files = {name: _files(sample, pool) for name, sample in SAMPLES.items()}
            return self._files[name]


def _files(sample: Sample, pool: Pool) -> SampleFiles:
    # Imports torch, which the ingress does not need otherwise.
    from sdavs_platform.local.sample import write_video

    def scene(rng: StableRandom, pool: Pool, num_seconds: int) -> Scene:
        return Scene(sources=sample.sources, noise=None)

    clip, _ = compose_clip(
        name=sample.title, seed=sample.seed, pool=pool, size=SIZE, num_frames=NUM_FRAMES, scenes=scene
    )
    poster = io.BytesIO()
    Image.fromarray(clip.frames[0]).save(poster, "JPEG", quality=85)
    with tempfile.TemporaryDirectory() as folder:
        write_video(clip, Path(folder, "clip.mp4"))
        return SampleFiles(video=Path(folder, "clip.mp4").read_bytes(), poster=poster.getvalue())
