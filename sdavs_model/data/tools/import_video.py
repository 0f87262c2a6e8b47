"""Raw videos with masks -> AVSBench's MS3 layout: one picture, one second of sound and one mask a second."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sdavs_model.data.benchmarks.avsbench_object import MS3_DATA, MS3_FOLDER, MS3_TABLE
from sdavs_model.data.benchmarks.layout_files import found
from sdavs_model.data.core.audio import write_wav
from sdavs_model.data.core.images import size_text
from sdavs_model.data.core.mask_files import read_binary_mask
from sdavs_model.data.core.workers import Progress, no_progress
from sdavs_model.files import (
    as_on_disk,
    composed,
    is_litter,
    sha256_of,
    write_atomically,
    write_table,
)

VIDEO_SUFFIXES = (".mp4", ".m4v", ".webm", ".mkv", ".mov", ".avi", ".ts", ".mts", ".m2ts")
RECORDS = "imported"

Second = tuple[np.ndarray, np.ndarray]
"""What is seen in the middle of a second, [H, W, 3] uint8, and the second itself, [16000] float32."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """The settings of an import.

    Raises:
        ValueError: a number out of range; the message names the field.
    """

    videos: Path
    """Folder of the videos; their stems are their names. A wav of the same name replaces the sound of one."""
    masks: Path
    """Folder with a folder per video, its pngs in the order of the numbers in their names, one a second."""
    decode: Callable[[Path, Path | None], Iterable[Second]]
    """Seconds of a video, heard with its wav if it has one, in order; a ValueError from it names the file. The
    endpoint's own decoder belongs here, so that a model hears and sees in training what it will in serving."""
    splits: Mapping[str, str]
    """{video: split}; a video that is not in it is left out."""
    num_frames: int = 5
    """Seconds of a clip. Longer videos become several clips; what remains at the end is left out."""
    size: int | None = None
    """Side in pixels to which pictures and masks are squashed, as AVSBench's are; None leaves them alone."""

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise ValueError(f"num_frames: {self.num_frames} is below 1")
        if self.size is not None and self.size < 32:
            raise ValueError(f"size: {self.size} is below 32")


def find_videos(folder: Path) -> dict[str, Path]:
    """{stem, accented letters composed, without spaces around it: file} of the videos of a folder.

    Raises:
        ValueError: no such folder, no video in it, or several of one name; names them all.
    """
    folder = as_on_disk(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of videos")
    files = sorted(path for path in folder.iterdir() if not is_litter(path))
    if not files:
        raise ValueError(f"{folder}: is empty")
    videos: dict[str, Path] = {}
    problems = []
    for path in files:
        name = composed(path.stem).strip()  # as tables are read
        if path.suffix.lower() in VIDEO_SUFFIXES and videos.setdefault(name, path) != path:
            problems.append(f"{path}: has the same name as {videos[name].name}")
    if not videos:
        raise ValueError(f"{folder}: holds no video ({', '.join(VIDEO_SUFFIXES)})")
    _refuse(problems)
    return videos


def import_videos(
    out: Path,
    job: Import,
    *,
    num_workers: int = 1,
    progress: Progress = no_progress,
) -> dict[str, int]:
    """Import what is new or changed since an earlier run into `out/Multi-sources`; the csv is written last.

    Earlier imports into the same folder stay, so splits can be added one after the other.

    Returns:
        {"videos": imported now, "unchanged": left as they were, "clips": in the data set, "seconds_left_out": at
        the ends of the videos imported now}.

    Raises:
        ValueError: videos that cannot be decoded or have no sound, masks that are missing, unclear, or of another
            number or size; a video in the table that is not there. The message names all of the files, one a line.
            Videos without a fault stay imported, for the next run.
    """
    layout = out / MS3_FOLDER
    videos = {name: path for name, path in find_videos(job.videos).items() if name in job.splits}
    missing = sorted(set(job.splits) - set(videos))
    _refuse([f"{job.videos / name}: no such video ({', '.join(VIDEO_SUFFIXES)})" for name in missing])
    holds_files = layout.is_dir() and not all(is_litter(path) for path in layout.iterdir())
    if holds_files and not (layout / RECORDS).is_dir():
        raise ValueError(f"{layout}: holds a data set that was not imported; choose another folder")
    (layout / RECORDS).mkdir(parents=True, exist_ok=True)
    # Without it no loader reads the folder, until everything is in place again.
    (layout / MS3_TABLE).unlink(missing_ok=True)

    def attempt(name: str) -> int | ValueError | None:
        try:
            return _import_one(layout, job, name, videos[name])
        except ValueError as error:
            return error

    result = {"videos": 0, "unchanged": 0, "seconds_left_out": 0}
    problems: list[str] = []
    with ThreadPoolExecutor(num_workers) as workers:
        try:
            for done, imported in enumerate(workers.map(attempt, sorted(videos)), 1):
                if isinstance(imported, ValueError):
                    problems.append(str(imported))
                else:
                    result["unchanged" if imported is None else "videos"] += 1
                    result["seconds_left_out"] += imported or 0
                progress("importing videos", done, len(videos))
        except BaseException:
            workers.shutdown(cancel_futures=True)
            raise
    _refuse(problems)
    records = [
        json.loads(path.read_text())
        for path in sorted((layout / RECORDS).glob("*.json"))
        if not is_litter(path)
    ]
    rows = [(clip, record["split"]) for record in records for clip in record["clips"]]
    write_table(layout / MS3_TABLE, [("video_id", "split"), *rows])
    return result | {"clips": len(rows)}


def _import_one(layout: Path, job: Import, name: str, path: Path) -> int | None:
    """Import one video and write its record last; the seconds left out, or None if it was unchanged."""
    if not path.stat().st_size:
        raise ValueError(f"{path}: is empty")
    own = as_on_disk(job.masks / path.stem)
    masks = _find_masks(own if own.is_dir() else as_on_disk(job.masks / name))
    wav = found(path.with_suffix(".wav")) or found(path.with_suffix(".WAV"))
    if wav is not None and not wav.stat().st_size:
        raise ValueError(f"{wav}: is empty")
    record = layout / RECORDS / f"{name}.json"
    made_of = {
        "video": sha256_of(path),
        "masks": [sha256_of(mask) for mask in masks],
        "num_frames": job.num_frames,
        "size": job.size,
    }
    if wav is not None:
        made_of["sound"] = sha256_of(wav)
    split = job.splits[name]
    if record.is_file():
        before = json.loads(record.read_text())
        if before["made_of"] == made_of and before["split"] == split:
            return None
        record.unlink()
    clips: list[str] = []
    pending: list[tuple[Second, np.ndarray]] = []
    problems: list[str] = []
    num_seconds = 0
    try:
        for num_seconds, second in enumerate(job.decode(path, wav), 1):
            if num_seconds > len(masks):
                continue  # refused below, when the number is known
            try:
                pending.append((second, _read_mask(masks[num_seconds - 1], second[0])))
            except ValueError as error:
                problems.append(str(error))
            if problems:
                pending.clear()
            elif len(pending) == job.num_frames:
                clips.append(f"{name}_{len(clips):03d}")
                _write_clip(layout, job, split, clips[-1], pending)
                pending.clear()
    except ValueError as error:
        raise ValueError("\n".join([*problems, str(error)])) from error
    if num_seconds != len(masks):
        problems.append(
            f"{job.masks / name}: {len(masks)} masks for the {num_seconds} seconds of {path.name}"
        )
    elif num_seconds < job.num_frames:
        problems.append(f"{path}: {num_seconds} s long; a clip has {job.num_frames}")
    _refuse(problems)
    write_atomically(record, json.dumps({"split": split, "clips": clips, "made_of": made_of}))
    return len(pending)


def _write_clip(
    layout: Path, job: Import, split: str, clip: str, seconds: list[tuple[Second, np.ndarray]]
) -> None:
    data = layout / MS3_DATA
    frame_folder, mask_folder = data / "visual_frames" / clip, data / "gt_masks" / split / clip
    wav = data / "audio_wav" / split / f"{clip}.wav"
    for folder in (frame_folder, mask_folder, wav.parent):
        folder.mkdir(parents=True, exist_ok=True)
    for number, ((picture, _), mask) in enumerate(seconds, 1):
        image, stored_mask = Image.fromarray(picture), Image.fromarray(mask * np.uint8(255))
        if job.size is not None:
            image = image.resize((job.size, job.size), Image.Resampling.BILINEAR)
            stored_mask = stored_mask.resize((job.size, job.size), Image.Resampling.NEAREST)
        image.save(frame_folder / f"{clip}.mp4_{number}.png", compress_level=1)
        stored_mask.save(mask_folder / f"{clip}_{number}.png", compress_level=1)
    sound = np.concatenate([samples for (_, samples), _ in seconds])
    write_wav(wav, np.clip(np.round(sound * 32768), -32768, 32767).astype(np.int16))


def _find_masks(folder: Path) -> list[Path]:
    """The masks of one video, in the order of the last number in their names."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: missing; one png per second is needed")
    files = [path for path in folder.iterdir() if not is_litter(path)]
    masks = [path for path in files if path.suffix.lower() == ".png"]
    if not masks:
        raise ValueError(f"{folder}: {'holds no png' if files else 'is empty'}; one png per second is needed")
    return sorted(masks, key=lambda path: ([int(n) for n in re.findall(r"\d+", path.stem)][-1:], path))


def _read_mask(path: Path, picture: np.ndarray) -> np.ndarray:
    mask = read_binary_mask(path)
    if mask.shape != picture.shape[:2]:
        raise ValueError(f"{path}: {size_text(mask)}, but its video is {size_text(picture)}")
    return mask


def _refuse(problems: list[str]) -> None:
    if problems:
        raise ValueError("\n".join(problems))
