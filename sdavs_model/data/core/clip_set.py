"""One split of a data set, whatever its layout on disk: finds its files and reads its clips unchanged."""

import copy
import functools
import hashlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from sdavs_model.data.core.audio import AfterSound, num_seconds_of, read_audio, whole_seconds
from sdavs_model.data.core.clip import SAMPLE_RATE, Clip, ClipFiles
from sdavs_model.data.core.images import read_frames, read_objects, size_text
from sdavs_model.files import composed, sha256_of

BINARY_CLASSES = ("background", "sounding object")


class ClipSet(ABC):
    """One split of a data set. Holds a list of paths and reads one clip at a time.

    All files are looked for when it is made, so an incomplete data set is refused before a training starts; their
    content is checked when it is read. `TrainingClips` makes the model's tensors of it.

    Args:
        root: the data set's folder.
        split: one of its splits.
        num_frames: T, frames and seconds of a clip.
        read_sound: reads a sound file as `read_audio` does; `SoundCache.waveform` decodes each file only once.

    Raises:
        ValueError: a missing folder, table, split, frame, mask or sound, a wrong number of frames; on reading,
            a corrupt picture or sound, less than half a second of sound, a mask of another size than its frame.
            The message names the file.
    """

    kind: ClassVar[str]
    """As in `sdavs_model.data.datasets.KINDS`."""
    protocol: ClassVar[str]
    """Whose numbers the community compares: a name in `sdavs_model.metrics.protocols`."""
    full_size: ClassVar[bool] = False
    """Whether the protocol scores at the masks' stored size."""

    after_sound: ClassVar[AfterSound] = "silence"
    """How a sound that is shorter than its frames is continued: as the data set's own scripts do."""

    per_clip: ClassVar[tuple[str, ...]] = ("files",)
    """Attributes that are lists with an item a clip."""

    recorded_digest: str | None = None
    """The `digest`, where it is known without reading the files."""
    hold: Callable[[ClipFiles], AbstractContextManager[None]] = staticmethod(lambda files: nullcontext())
    """Makes a context in which a clip's pictures and sound are on disk; for sets that are fetched clip by clip."""

    root: Path
    classes: tuple[str, ...] = BINARY_CLASSES
    """Names of the mask values from 0 on, background first."""
    tables: tuple[Path, ...] = ()
    """Files that list the content of the split and are part of its digest."""

    def __init__(
        self,
        *,
        root: str | Path,
        split: str,
        num_frames: int = 5,
        read_sound: Callable[[Path], np.ndarray] = read_audio,
    ) -> None:
        split = self.split = composed(split)
        self.num_frames = num_frames
        self.read_sound = read_sound
        if not Path(root).is_dir():
            raise ValueError(f"{root}: no such data folder")
        self.splits = self.list_splits(Path(root))
        if split not in self.splits:
            raise ValueError(f"{root}: no split {split!r}; it has {', '.join(self.splits) or 'none'}")
        self.files: list[ClipFiles] = self._open(Path(root))

    @classmethod
    @abstractmethod
    def list_splits(cls, root: Path) -> tuple[str, ...]:
        """The splits that the data set's tables name. Raises ValueError if a table is missing."""

    @abstractmethod
    def _open(self, root: Path) -> list[ClipFiles]:
        """Set `root` (and `classes`, `tables`), look for every file of the split."""

    def __len__(self) -> int:
        return len(self.files)

    def subset(self, indices: Sequence[int]) -> Self:
        """Some of the clips, in this order, as a new set."""
        chosen = copy.copy(self)
        for name in [*vars(chosen)]:
            if isinstance(getattr(type(self), name, None), functools.cached_property):
                delattr(chosen, name)
        for name in self.per_clip:
            values = getattr(self, name)
            setattr(chosen, name, [values[index] for index in indices])
        if self.recorded_digest is not None:
            names = "".join(f"{files.name}\n" for files in chosen.files)
            chosen.recorded_digest = hashlib.sha256(f"{self.recorded_digest}\n{names}".encode()).hexdigest()
        return chosen

    @property
    def num_classes(self) -> int:
        """`SDAVSConfig.num_classes` for this data set: 1 if its masks are binary."""
        return 1 if self.classes == BINARY_CLASSES else len(self.classes)

    def clip(self, index: int, seconds: slice = slice(None)) -> Clip:
        """The clip as it is on disk, or consecutive seconds of it. Raises ValueError as documented in the class."""
        files = self.files[index]
        num_frames = len(files.frames)
        with self.hold(files):
            waveform = self.waveform(index).reshape(num_frames, SAMPLE_RATE)[seconds].reshape(-1)
            return self._clip(files, seconds, waveform)

    def pictures(self, index: int) -> Clip:
        """The clip with silence in place of its sound, which is not read."""
        files = self.files[index]
        with self.hold(files):
            return self._clip(files, slice(None), np.zeros(len(files.frames) * SAMPLE_RATE, np.float32))

    def waveform(self, index: int) -> np.ndarray:
        """[len(frames) * 16000] float32: the clip's sound, mono, cut to whole seconds."""
        files = self.files[index]
        return self._whole_seconds(files.wav, len(files.frames))

    def num_seconds_heard(self, index: int) -> tuple[int, int]:
        """Seconds of sound that a clip's file has, and those that its frames need."""
        files = self.files[index]
        return num_seconds_of(self.read_sound(files.wav)), len(files.frames)

    def objects(self, index: int) -> np.ndarray:
        """[T, H, W] uint8: every visible object of a clip, sounding or silent; see `sdavs_model.data.core.images`.

        Raises:
            ValueError: the data set does not record them, or the file is corrupt; names the clip or the file.
        """
        files = self.files[index]
        if files.objects is None:
            raise ValueError(
                f"{self.root}: has no file of the visible objects of clip {files.name!r}; RealAV prepared by this "
                "version has one for each clip"
            )
        return read_objects(files.objects, len(files.frames))

    def read_masks(self, files: ClipFiles, seconds: slice, frames: np.ndarray) -> np.ndarray:
        """[T, H, W] uint8 for [T, H, W, 3] frames; all 0 where a frame has no mask."""
        paths = zip(files.masks[seconds], frames, files.frames[seconds], strict=True)
        masks = [np.zeros(f.shape[:2], np.uint8) if m is None else self._mask(m, f, p) for m, f, p in paths]
        return np.stack(masks)

    def read_mask(self, path: Path) -> np.ndarray:
        """[H, W] uint8 class indices of one mask. Raises ValueError naming the file if they are not clear."""
        raise NotImplementedError

    def place(self, index: int) -> dict[str, Any]:
        """Which part of a longer video a clip is, for protocols that score whole videos; else nothing."""
        return {}

    @functools.cached_property
    def digest(self) -> str:
        """sha256 (hex) over the path and content of every file of this split: what a training saw."""
        if self.recorded_digest is not None:
            return self.recorded_digest
        total = hashlib.sha256()
        for file in dict.fromkeys([*self.tables, *(path for files in self.files for path in files.paths)]):
            name = composed(file.relative_to(self.root).as_posix())
            total.update(f"{name} {sha256_of(file)}\n".encode())
        return total.hexdigest()

    @functools.cached_property
    def categories(self) -> list[str]:
        """Each clip's `category`, without reading its pictures and sound."""
        return ["+".join(_read_sources(f)["heard"]) if f.sources else f.category for f in self.files]

    @functools.cached_property
    def seen(self) -> list[str]:
        """The visible categories of each clip, silent ones included, joined as in `category`; "" where unknown."""
        return ["+".join(_read_sources(files)["seen"]) if files.sources else "" for files in self.files]

    @functools.cached_property
    def object_categories(self) -> list[list[str]]:
        """The categories of each clip's `objects`, from value 1 on; empty where the data set does not record them."""
        return [_read_sources(files).get("objects", []) if files.sources else [] for files in self.files]

    @functools.cached_property
    def heard_by_second(self) -> list[list[set[str]]]:
        """The categories heard in each second of each clip, on screen or off; empty where that is not recorded."""
        seconds = [_read_sources(files)["seconds"] if files.sources else [] for files in self.files]
        return [[{*now["sounding"], *now["off_screen"]} for now in clip] for clip in seconds]

    @functools.cached_property
    def sounding_by_second(self) -> list[list[set[str]]]:
        """The visible categories that sound in each second of each clip; empty where that is not recorded."""
        seconds = [_read_sources(files)["seconds"] if files.sources else [] for files in self.files]
        return [[set(now["sounding"]) for now in clip] for clip in seconds]

    @functools.cached_property
    def assets(self) -> list[list[str]]:
        """sha256 of the photographs and recordings each clip is composed of; empty where the data set records none."""
        return [_read_sources(files).get("assets", []) if files.sources else [] for files in self.files]

    def _whole_seconds(self, path: Path, num_seconds: int) -> np.ndarray:
        sound = self.read_sound(path)
        seconds = whole_seconds(sound, num_seconds, path, then=self.after_sound)
        if num_seconds_of(sound) < num_seconds:
            how = "silence" if self.after_sound == "silence" else "their last second"
            # Without the file's name, so that Python shows it once a data set.
            warnings.warn(
                f"{self.root}: some sounds are shorter than their frames and are continued with {how}; "
                "`prepare_data.py validate` lists them",
                stacklevel=2,
            )
        return seconds

    def _clip(self, files: ClipFiles, seconds: slice, waveform: np.ndarray) -> Clip:
        frames = read_frames(files.frames[seconds])
        masks = self.read_masks(files, seconds, frames)
        return Clip(
            name=files.name, frames=frames, waveform=waveform, masks=masks, valid=files.valid[seconds]
        )

    def _mask(self, path: Path, frame: np.ndarray, frame_path: Path) -> np.ndarray:
        mask = self.read_mask(path)
        if mask.shape != frame.shape[:2]:
            raise ValueError(
                f"{path}: {size_text(mask)}, but its frame {frame_path.name} is {size_text(frame)}"
            )
        return mask


def total_digest(digests: dict[str, str]) -> str:
    """One sha256 (hex) for several splits, in the order given; what a training logs as its data digest."""
    lines = "".join(f"{split} {digest}\n" for split, digest in digests.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def _read_sources(files: ClipFiles) -> dict[str, Any]:
    assert files.sources is not None
    return json.loads(files.sources.read_text())
