"""Validate a data set on disk: every defect with its file, in one pass."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sdavs_model.data.benchmarks.layout_files import collecting_defects
from sdavs_model.data.benchmarks.palette import colours_to_classes
from sdavs_model.data.core.clip import ClipFiles
from sdavs_model.data.core.clip_set import ClipSet
from sdavs_model.data.core.images import read_picture, size_text
from sdavs_model.data.core.log_mel_file import read_log_mel
from sdavs_model.data.core.workers import Progress, no_progress
from sdavs_model.data.datasets import known_kind, open_splits


@dataclass(frozen=True, kw_only=True)
class Report:
    """Result of a validation: what was read, and its defects."""

    kind: str
    num_clips: dict[str, int]
    """By split."""
    defects: tuple[str, ...]
    """One sentence each; it begins with the file."""
    notes: tuple[str, ...] = ()
    """The same for what a training takes as well: sounds that are shorter than their frames."""


def validate(
    root: Path,
    kind: str = "auto",
    *,
    num_frames: int | None = None,
    num_workers: int = 1,
    progress: Progress = no_progress,
) -> Report:
    """Look for every file of every split and read each of them.

    Reported are missing files, wrong counts and sizes, pictures and sounds that cannot be read, unknown colours and
    values in masks; and, as notes, sounds shorter than their frames.

    Args:
        root: the data set's folder.
        kind: as in `open_dataset`.
        num_frames: seconds of a clip; None for the benchmark's own number.
        num_workers: threads that read.
        progress: called after every clip; the stage is its split.

    Raises:
        ValueError: the folder holds no data set, or a table is missing or unreadable, so that nothing can be checked.
    """
    with collecting_defects() as missing:
        splits = open_splits(root, kind, num_frames=num_frames)
    defects, notes = list(missing), []
    with ThreadPoolExecutor(num_workers) as workers, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unknown colours are defects here
        for split, clips in splits.items():
            for done, found in enumerate(
                workers.map(lambda i, c=clips: _look_at(c, i), range(len(clips))), 1
            ):
                defects += found.defects
                notes += found.notes
                progress(split, done, len(clips))
    return Report(
        kind=known_kind(kind, root),
        num_clips={split: len(clips) for split, clips in splits.items()},
        # A file may belong to several clips.
        defects=tuple(dict.fromkeys(defects)),
        notes=tuple(dict.fromkeys(notes)),
    )


class _Found(NamedTuple):
    defects: list[str]
    notes: list[str]


def _look_at(clips: ClipSet, index: int) -> _Found:
    """The defects of one clip's files, missing ones excepted."""
    files = clips.files[index]
    defects: list[str] = []
    shapes: dict[Path, tuple[int, ...]] = {}
    for place, (path, mask) in enumerate(zip(files.frames, files.masks, strict=True)):
        if not path.is_file():
            continue
        try:
            frame = read_picture(path)
            shapes[path] = frame.shape
            first = next(iter(shapes))
            if frame.shape != shapes[first]:
                height, width = shapes[first][:2]
                defects.append(f"{path}: {size_text(frame)}, but {first.name} is {width}x{height}")
            if mask is not None and mask.is_file():
                clips.read_masks(files, slice(place, place + 1), frame[None])
                defects += _unknown_colours(clips, mask)
        except ValueError as error:
            defects.append(str(error))
    notes: list[str] = []
    try:
        notes = _hear(clips, files, index)
    except ValueError as error:
        defects.append(str(error))
    return _Found(defects, notes)


def _hear(clips: ClipSet, files: ClipFiles, index: int) -> list[str]:
    if all(path.is_file() for path in (files.wav, *files.more)):
        clips.waveform(index)
        heard, needed = clips.num_seconds_heard(index)
        if heard < needed:
            how = "silence follows" if clips.after_sound == "silence" else "its last second is repeated"
            return [f"{files.wav}: {heard} s of sound for {needed} frames; {how}"]
    elif files.log_mel is not None and files.log_mel.is_file():
        read_log_mel(files.log_mel, len(files.frames))
    return []


def _unknown_colours(clips: ClipSet, mask: Path) -> list[str]:
    """Colours that belong to no class, which the loaders treat as background."""
    coloured = mask.parent.parent / "labels_rgb" / mask.name
    if clips.protocol == "semantic" and coloured.is_file():
        picture = read_picture(coloured)
        _, unknown = colours_to_classes(picture, len(clips.classes))
        if unknown.any():
            colour = tuple(int(value) for value in picture[unknown][0])
            return [f"{coloured}: {int(unknown.sum())} pixels of no class's colour, such as {colour}"]
    return []
