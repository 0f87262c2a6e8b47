"""AVSBench-object: the single-source set (S4), the multi-source set (MS3), and data sets in MS3's layout."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sdavs_model.data.benchmarks.layout_files import (
    find_layout,
    found,
    list_values,
    read_rows,
    refuse,
    require_files,
)
from sdavs_model.data.core.clip import ClipFiles
from sdavs_model.data.core.clip_set import ClipSet
from sdavs_model.data.core.mask_files import read_binary_mask
from sdavs_model.files import as_on_disk, is_litter

MS3_FOLDER = "Multi-sources"
MS3_TABLE = "ms3_meta_data.csv"
MS3_DATA = "ms3_data"
MS3_COLUMNS = {"video_id": 0, "split": 1}

S4_FOLDER = "Single-source"
S4_TABLE = "s4_meta_data.csv"
S4_DATA = "s4_data"
S4_COLUMNS = {"video_name": 0, "category": 2, "split": 3}

TRAIN = "train"

OBJECTS_FOLDER = "visible_objects"
"""RealAV's own addition to both layouts: all visible objects of a clip, sounding or silent."""


class AVSBenchObject(ClipSet):
    """Base class of both sets: binary masks and one protocol."""

    protocol = "object"
    after_sound = "repeat"

    def read_mask(self, path: Path) -> np.ndarray:
        return read_binary_mask(path)


class AVSBenchMS3(AVSBenchObject):
    """The multi-source set of AVSBench, or a data set in its layout, one split of it; see `ClipSet`.

    Frames are called `<video>.mp4_<n>.png` and lie in no split folder; sound and masks do. All five frames of a
    clip have a mask, in every split.

    Args:
        root: the folder `Multi-sources`, or the folder that holds it.
        split: a value of the csv's split column.
    """

    kind = "avsbench-ms3"

    @classmethod
    def list_splits(cls, root: Path) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_read_splits(_ms3_layout(root)).values()))

    def _open(self, root: Path) -> list[ClipFiles]:
        self.root = _ms3_layout(root)
        return [self._find(name) for name, split in _read_splits(self.root).items() if split == self.split]

    def _find(self, name: str) -> ClipFiles:
        data, split = self.root / MS3_DATA, self.split
        frames, masks = data / "visual_frames" / name, data / "gt_masks" / split / name
        numbers = range(1, self.num_frames + 1)
        files = ClipFiles(
            name=name,
            frames=tuple(frames / f"{name}.mp4_{number}.png" for number in numbers),
            masks=tuple(masks / f"{name}_{number}.png" for number in numbers),
            wav=data / "audio_wav" / split / f"{name}.wav",
            log_mel=data / "audio_log_mel" / split / f"{name}.pkl",
            sources=found(data / "sources" / split / f"{name}.json"),
            objects=found(data / OBJECTS_FOLDER / split / f"{name}.png"),
        ).as_on_disk()
        _require_clip(files, frames, masks)
        return files


class AVSBenchS4(AVSBenchObject):
    """The single-source set of AVSBench, one split of it; see `ClipSet`.

    In the split "train" only the first frame has a mask (`valid`), elsewhere all five have.

    Args:
        root: the folder `Single-source`, or the folder that holds it.
        split: a value of the csv's split column.
    """

    kind = "avsbench-s4"

    @classmethod
    def list_splits(cls, root: Path) -> tuple[str, ...]:
        return list_values(find_layout(root, S4_FOLDER, S4_TABLE) / S4_TABLE, S4_COLUMNS, "split")

    def _open(self, root: Path) -> list[ClipFiles]:
        self.root = find_layout(root, S4_FOLDER, S4_TABLE)
        rows = read_rows(self.root / S4_TABLE, S4_COLUMNS)
        return [self._find(row["category"], row["video_name"]) for row in rows if row["split"] == self.split]

    def _find(self, category: str, name: str) -> ClipFiles:
        data, folder = self.root / S4_DATA, Path(self.split) / category
        frames, masks = data / "visual_frames" / folder / name, data / "gt_masks" / folder / name
        num_masks = 1 if self.split == TRAIN else self.num_frames
        numbers = range(1, self.num_frames + 1)
        files = ClipFiles(
            name=name,
            frames=tuple(frames / f"{name}_{number}.png" for number in numbers),
            masks=tuple(
                masks / f"{name}_{number}.png" if number <= num_masks else None for number in numbers
            ),
            wav=data / "audio_wav" / folder / f"{name}.wav",
            log_mel=data / "audio_log_mel" / folder / f"{name}.pkl",
            category=category,
            sources=found(data / "sources" / folder / f"{name}.json"),
            objects=found(data / OBJECTS_FOLDER / folder / f"{name}.png"),
        ).as_on_disk()
        _require_clip(files, frames, masks)
        return files


def _ms3_layout(root: Path) -> Path:
    """The `Multi-sources` folder that `root` is or holds. Raises ValueError if there is none."""
    if not root.is_dir():
        raise ValueError(f"{root}: no such data folder")
    for folder in (root / MS3_FOLDER, root):
        if (folder / MS3_TABLE).is_file():
            return folder
    raise ValueError(f"{root / MS3_FOLDER / MS3_TABLE}: missing; {root} is not in AVSBench's MS3 layout")


def _read_splits(layout: Path) -> dict[str, str]:
    """{video: split}; a video that is listed twice is of the split in its last line."""
    return {row["video_id"]: row["split"] for row in read_rows(layout / MS3_TABLE, MS3_COLUMNS)}


def _require_clip(files: ClipFiles, frames: Path, masks: Path) -> None:
    """Raises ValueError naming the first file or folder of a clip that is missing, or holds too many pictures."""
    mask_files = [mask for mask in files.masks if mask]
    _require_pictures(frames, "frames", files.name, files.frames)
    _require_pictures(masks, "masks", files.name, mask_files)
    require_files([*files.frames, *mask_files], f"one of the {len(files.frames)} of video {files.name!r}")
    assert files.log_mel is not None
    if not files.wav.is_file() and not files.log_mel.is_file():
        refuse(f"{files.wav}: missing, frames without sound (and no {files.log_mel})")


def _require_pictures(folder: Path, what: str, name: str, expected: Sequence[Path]) -> None:
    folder = as_on_disk(folder)
    if not folder.is_dir():
        refuse(f"{folder}: missing, the {what} of video {name!r}")
    num_files = sum(not is_litter(path) for path in folder.glob("*.png"))
    if num_files > len(expected):
        refuse(f"{folder}: {num_files} {what}, expected {len(expected)}")
