"""The bundled photographs and recordings, read back exactly as they were stored."""

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sdavs_model.data.core.audio import read_audio
from sdavs_model.files import sha256_of

ASSETS_FOLDER = Path(__file__).parent / "assets"


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A decoded picture and the digest of its file."""

    image: Image.Image
    """RGBA for a cut-out, whose alpha channel is the object's mask; RGB for a background."""
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A decoded sound and the digest of its file."""

    samples: np.ndarray
    """[N] int16, mono, 16 kHz."""
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What clips of one split are made of. Categories are those with a photograph and a recording."""

    categories: tuple[str, ...]
    photos: dict[str, list[Photo]]
    """Cut-outs by category."""
    sounds: dict[str, list[Recording]]
    """Recordings by category."""
    backgrounds: list[Photo]
    """Photographs without any of the categories in them."""
    noises: dict[str, list[Recording]]
    """Recordings of the environment by kind."""


class AssetLibrary:
    """The bundle's manifest, and pools of decoded assets.

    Raises:
        ValueError: a missing manifest; in `pool`, a missing or changed file. The message names the file.
    """

    def __init__(self, folder: Path = ASSETS_FOLDER) -> None:
        self.folder = folder
        manifest = folder / "manifest.csv"
        if not manifest.is_file():
            raise ValueError(f"{manifest}: missing, so there are no assets to compose clips from")
        self.digest = sha256_of(manifest)
        with manifest.open(newline="") as file:
            self.rows = list(csv.DictReader(file))

    def categories(self, *splits: str) -> tuple[str, ...]:
        """Those of the splits with a photograph and a recording, in alphabetical order; nothing is decoded."""
        photos, sounds = (
            {row["category"] for row in self.rows if row["kind"] == kind and row["split"] in splits}
            for kind in ("photo", "sound")
        )
        return tuple(sorted(photos & sounds))

    def pool(self, *splits: str, backgrounds: str | None = None) -> Pool:
        """Decode the assets of one or more splits; `backgrounds` takes the backgrounds of another split."""
        photos: dict[str, list[Photo]] = defaultdict(list)
        sounds: dict[str, list[Recording]] = defaultdict(list)
        noises: dict[str, list[Recording]] = defaultdict(list)
        scenes: list[Photo] = []
        for row in self.rows:
            wanted = (backgrounds,) if backgrounds and row["kind"] == "background" else splits
            if row["split"] not in wanted:
                continue
            path = self._checked(row)
            if row["kind"] == "photo":
                photos[row["category"]].append(Photo(image=_read_image(path, "RGBA"), sha256=row["sha256"]))
            elif row["kind"] == "background":
                scenes.append(Photo(image=_read_image(path, "RGB"), sha256=row["sha256"]))
            else:
                # Exact: the files hold 16-bit samples, which float32 represents without loss.
                samples = np.round(read_audio(path) * 32768).astype(np.int16)
                recording = Recording(samples=samples, sha256=row["sha256"])
                (sounds if row["kind"] == "sound" else noises)[row["category"]].append(recording)
        return Pool(
            categories=self.categories(*splits),
            photos=dict(photos),
            sounds=dict(sounds),
            backgrounds=scenes,
            noises=dict(noises),
        )

    def _checked(self, row: dict[str, str]) -> Path:
        path = self.folder / row["path"]
        if not path.is_file():
            raise ValueError(f"{path}: missing from the bundled data set")
        if sha256_of(path) != row["sha256"]:
            raise ValueError(f"{path}: does not have the sha256 in {self.folder / 'manifest.csv'}")
        return path


def _read_image(path: Path, mode: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert(mode)
