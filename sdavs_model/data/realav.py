"""RealAV: composed clips on disk, in AVSBench's MS3 layout, so that one loader reads both."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sdavs_model.data.audio import write_wav
from sdavs_model.data.bundle import Assets, Pool
from sdavs_model.data.compose import COMPOSER_VERSION, compose_clip

STAMP_FILE = "realav.json"
STARTED_FILE = "realav.started.json"
CHUNK = 20

# Which assets, and which backgrounds, a split is made of. "new scenes" knows its objects and recordings from
# training and nothing else; "strict" shares nothing with it. The two are never mixed in one figure.
SPLITS = {
    "train": ("train", "train"),
    "val": ("val", "val"),
    "test_new_scenes": ("train", "test"),
    "test_strict": ("test", "test"),
}


@dataclass(frozen=True, kw_only=True)
class RealAVConfig:
    """What decides the content of a prepared data set.

    Raises:
        ValueError: a count below 1 or a size below 32; the message names the field.
    """

    num_train: int = 1500
    """Clips to train on."""
    num_val: int = 60
    """Clips of assets kept out of training, to choose the checkpoint with."""
    num_test_new_scenes: int = 80
    """Test clips of the training's objects and recordings, over new backgrounds."""
    num_test_strict: int = 80
    """Test clips of objects and recordings never seen or heard before."""
    size: int = 128
    """Side of the stored frames in pixels."""
    num_frames: int = 5
    """Frames, and seconds, of a clip."""
    seed: int = 0
    """Another seed gives other clips of the same assets."""

    def __post_init__(self) -> None:
        for split in SPLITS:
            if self.count(split) < 1:
                raise ValueError(f"num_{split}: {self.count(split)} is below 1")
        if self.size < 32 or self.num_frames < 1:
            raise ValueError(f"size, num_frames: {self.size}, {self.num_frames} must be at least 32 and 1")

    def count(self, split: str) -> int:
        """The number of clips of a split."""
        return getattr(self, f"num_{split}")


def prepare(
    root: Path,
    config: RealAVConfig,
    *,
    num_workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> bool:
    """Composes the data set below `root/Multi-sources`, or finds it there and does nothing.

    An interrupted run is continued by the next one with the same config. The csv, without which the loader
    refuses the folder, and the stamp are written last.

    Args:
        root: the folder to write to.
        config: what to write.
        num_workers: processes that compose.
        progress: called with (clips done, clips in all).

    Returns:
        True if clips were written, False if the data set was complete.

    Raises:
        ValueError: the folder holds a data set that is not RealAV; it is not touched.
    """
    layout = root / "Multi-sources"
    wanted = {"config": asdict(config), "assets": Assets().digest, "composer": COMPOSER_VERSION}
    stamp = _read_json(layout / STAMP_FILE)
    if stamp is not None and stamp["made_of"] == wanted and stamp["files"] == _count_files(layout):
        return False
    if stamp is None and (layout / "ms3_meta_data.csv").exists():
        raise ValueError(f"{layout}: holds a data set that is not RealAV; choose another folder")
    if stamp is not None or _read_json(layout / STARTED_FILE) != wanted:
        if layout.exists() and stamp is None and not (layout / STARTED_FILE).exists():
            raise ValueError(f"{layout}: is not empty and not RealAV; choose another folder")
        _remove(layout)
    layout.mkdir(parents=True, exist_ok=True)
    _write_atomically(layout / STARTED_FILE, json.dumps(wanted))

    total = sum(config.count(split) for split in SPLITS)
    jobs = list(_jobs(config))
    done = 0
    if num_workers == 1:
        for job in jobs:
            done += write_clips(layout, config, *job)
            progress(done, total)
    else:
        # Fresh processes: forking one that runs threads (a Ray driver does) can deadlock.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(num_workers, context, initializer=_leave_interrupts_to_parent) as workers:
            try:
                for future in as_completed([workers.submit(write_clips, layout, config, *j) for j in jobs]):
                    done += future.result()
                    progress(done, total)
            except BaseException:
                workers.shutdown(cancel_futures=True)
                raise

    rows = [(clip_name(split, i), split) for split in SPLITS for i in range(config.count(split))]
    table = layout / "ms3_meta_data.csv"
    with (part := table.with_suffix(".part")).open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("video_id", "split"), *rows])
    part.replace(table)
    (layout / STARTED_FILE).unlink()
    stamp = {"made_of": wanted, "files": _count_files(layout)}
    _write_atomically(layout / STAMP_FILE, json.dumps(stamp, indent=2))
    return True


def clip_name(split: str, index: int) -> str:
    """The video name of a clip."""
    return f"{split}_{index:05d}"


def write_clips(layout: Path, config: RealAVConfig, split: str, first: int, last: int) -> int:
    """Composes and writes clips first..last-1 of a split; those already complete are left. Returns how many."""
    data = layout / "ms3_data"
    pool: Pool | None = None
    for index in range(first, last):
        name = clip_name(split, index)
        record = data / "sources" / split / f"{name}.json"
        if record.is_file():
            continue
        if pool is None:
            objects, backgrounds = SPLITS[split]
            pool = Assets().pool(objects, backgrounds=backgrounds)
        seed = (config.seed, list(SPLITS).index(split), index)
        clip, scene = compose_clip(
            name=name, seed=seed, pool=pool, size=config.size, num_frames=config.num_frames
        )
        assert clip.masks is not None
        frame_folder = data / "visual_frames" / name
        mask_folder = data / "gt_masks" / split / name
        wav = data / "audio_wav" / split / f"{name}.wav"
        for folder in (frame_folder, mask_folder, wav.parent, record.parent):
            folder.mkdir(parents=True, exist_ok=True)
        for number, (frame, mask) in enumerate(zip(clip.frames, clip.masks, strict=True), 1):
            # Light compression: a quarter more bytes, and written and read several times as fast.
            Image.fromarray(frame).save(frame_folder / f"{name}.mp4_{number}.png", compress_level=1)
            Image.fromarray(mask * np.uint8(255)).save(mask_folder / f"{name}_{number}.png", compress_level=1)
        write_wav(wav, np.round(clip.waveform * 32768).astype(np.int16))
        # Written last: a clip that has it is complete.
        _write_atomically(record, json.dumps(scene.record()))
    return last - first


def _jobs(config: RealAVConfig) -> Iterator[tuple[str, int, int]]:
    for split in SPLITS:
        for first in range(0, config.count(split), CHUNK):
            yield split, first, min(first + CHUNK, config.count(split))


def _leave_interrupts_to_parent() -> None:
    """Ctrl-C reaches the whole process group; the parent lets the chunks in work end, and only those."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _remove(layout: Path) -> None:
    """Deletes an outdated data set; renamed first, so that an interrupted deletion is not taken for data."""
    outdated = layout.with_name(f"{layout.name}.outdated")
    shutil.rmtree(outdated, ignore_errors=True)
    if layout.exists():
        layout.rename(outdated)
        shutil.rmtree(outdated)


def _count_files(layout: Path) -> dict[str, int]:
    """How many data files there are and their bytes in all: finds a copy that lost or cut any."""
    count = size = 0
    for folder, _, names in os.walk(layout / "ms3_data"):
        count += len(names)
        size += sum(os.stat(os.path.join(folder, name)).st_size for name in names)
    return {"count": count, "bytes": size}


def _read_json(path: Path) -> dict | None:
    return json.loads(path.read_text()) if path.is_file() else None


def _write_atomically(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)
