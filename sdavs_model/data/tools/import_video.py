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
from sdavs_model.data.core.audio import write_wav
from sdavs_model.data.core.images import size_text
from sdavs_model.data.core.mask_files import read_binary_mask
from sdavs_model.data.core.workers import Progress, no_progress
from sdavs_model.files import sha256_of, write_atomically, write_table

VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov")
RECORDS = "imported"

Second = tuple[np.ndarray, np.ndarray]
"""What is seen in the middle of a second, [H, W, 3] uint8, and the second itself, [16000] float32."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """What to import and how.

    Raises:
        ValueError: a number out of range; the message names the field.
    """

    videos: Path
    """Folder of the videos; their stems are their names."""
    masks: Path
    """Folder with a folder per video, its pngs in the order of the numbers in their names, one a second."""
    decode: Callable[[Path], Iterable[Second]]
    """Seconds of a video, in order; a ValueError from it names the file. The endpoint's own decoder belongs here,
    so that a model hears and sees in training what it will in serving."""
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
    """{stem: file} of the videos of a folder.

    Raises:
        ValueError: no such folder, no video in it, or two of one name.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of videos")
    videos: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES):
        if path.stem in videos:
            raise ValueError(f"{path}: has the same name as {videos[path.stem].name}")
        videos[path.stem] = path
    if not videos:
        raise ValueError(f"{folder}: holds no video ({', '.join(VIDEO_SUFFIXES)})")
    return videos


def import_videos(
    out: Path,
    job: Import,
    *,
    num_workers: int = 1,
    progress: Progress = no_progress,
) -> dict[str, int]:
    """Imports what is new or changed since an earlier run into `out/Multi-sources`; the csv is written last.

    Earlier imports into the same folder stay, so splits can be added one after the other.

    Returns:
        {"videos": imported now, "unchanged": left as they were, "clips": in the data set, "seconds_left_out": at
        the ends of the videos imported now}.

    Raises:
        ValueError: a video that cannot be decoded or has no sound, masks that are missing, of another number or
            size, or with unknown values; a video without a split. The message names the file.
    """
    layout = out / MS3_FOLDER
    videos = {name: path for name, path in find_videos(job.videos).items() if name in job.splits}
    unknown = sorted(set(job.splits) - set(videos))
    if unknown:
        raise ValueError(f"{job.videos / unknown[0]}: no such video ({', '.join(VIDEO_SUFFIXES)})")
    if layout.is_dir() and not (layout / RECORDS).is_dir() and any(layout.iterdir()):
        raise ValueError(f"{layout}: holds a data set that was not imported; choose another folder")
    (layout / RECORDS).mkdir(parents=True, exist_ok=True)
    # Without it no loader reads the folder, until everything is in place again.
    (layout / MS3_TABLE).unlink(missing_ok=True)

    result = {"videos": 0, "unchanged": 0, "seconds_left_out": 0}
    with ThreadPoolExecutor(num_workers) as workers:
        try:
            calls = workers.map(lambda name: _import_one(layout, job, name, videos[name]), sorted(videos))
            for done, left_out in enumerate(calls, 1):
                result["videos" if left_out is not None else "unchanged"] += 1
                result["seconds_left_out"] += left_out or 0
                progress("importing videos", done, len(videos))
        except BaseException:
            workers.shutdown(cancel_futures=True)
            raise
    records = [json.loads(path.read_text()) for path in sorted((layout / RECORDS).glob("*.json"))]
    rows = [(clip, record["split"]) for record in records for clip in record["clips"]]
    write_table(layout / MS3_TABLE, [("video_id", "split"), *rows])
    return result | {"clips": len(rows)}


def _import_one(layout: Path, job: Import, name: str, path: Path) -> int | None:
    """Imports one video and writes its record last; the seconds left out, or None if it was unchanged."""
    masks = _find_masks(job.masks / name)
    record = layout / RECORDS / f"{name}.json"
    made_of = {
        "video": sha256_of(path),
        "masks": [sha256_of(mask) for mask in masks],
        "num_frames": job.num_frames,
        "size": job.size,
    }
    split = job.splits[name]
    if record.is_file():
        before = json.loads(record.read_text())
        if before["made_of"] == made_of and before["split"] == split:
            return None
        record.unlink()
    clips: list[str] = []
    pending: list[Second] = []
    num_seconds = 0
    for picture, second in job.decode(path):
        pending.append((picture, second))
        num_seconds += 1
        if num_seconds > len(masks):
            continue  # refused below, when the number is known
        if len(pending) == job.num_frames:
            first = num_seconds - job.num_frames
            clips.append(f"{name}_{len(clips):03d}")
            _write_clip(layout, job, split, clips[-1], pending, masks[first:num_seconds])
            pending = []
    if num_seconds != len(masks):
        raise ValueError(
            f"{job.masks / name}: {len(masks)} masks for the {num_seconds} seconds of {path.name}"
        )
    if not clips:
        raise ValueError(f"{path}: {num_seconds} s long; a clip has {job.num_frames}")
    write_atomically(record, json.dumps({"split": split, "clips": clips, "made_of": made_of}))
    return len(pending)


def _write_clip(
    layout: Path, job: Import, split: str, clip: str, seconds: list[Second], masks: list[Path]
) -> None:
    data = layout / MS3_DATA
    frame_folder, mask_folder = data / "visual_frames" / clip, data / "gt_masks" / split / clip
    wav = data / "audio_wav" / split / f"{clip}.wav"
    for folder in (frame_folder, mask_folder, wav.parent):
        folder.mkdir(parents=True, exist_ok=True)
    for number, ((picture, _), mask) in enumerate(zip(seconds, masks, strict=True), 1):
        image, truth = Image.fromarray(picture), Image.fromarray(_read_mask(mask, picture) * np.uint8(255))
        if job.size is not None:
            image = image.resize((job.size, job.size), Image.Resampling.BILINEAR)
            truth = truth.resize((job.size, job.size), Image.Resampling.NEAREST)
        image.save(frame_folder / f"{clip}.mp4_{number}.png", compress_level=1)
        truth.save(mask_folder / f"{clip}_{number}.png", compress_level=1)
    sound = np.concatenate([second for _, second in seconds])
    write_wav(wav, np.clip(np.round(sound * 32768), -32768, 32767).astype(np.int16))


def _find_masks(folder: Path) -> list[Path]:
    """The masks of one video, in the order of the last number in their names."""
    masks = sorted(
        folder.glob("*.png"), key=lambda path: ([int(n) for n in re.findall(r"\d+", path.stem)][-1:], path)
    )
    if not masks:
        raise ValueError(f"{folder}: missing or empty; one png a second is needed")
    return masks


def _read_mask(path: Path, picture: np.ndarray) -> np.ndarray:
    mask = read_binary_mask(path)
    if mask.shape != picture.shape[:2]:
        raise ValueError(f"{path}: {size_text(mask)}, but its video is {size_text(picture)}")
    return mask
