"""AVSBench's multi-source set (MS3), and every data set written in its layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sdavs_model.data.benchmarks.layout_names import MS3_DATA, MS3_FOLDER, MS3_TABLE
from sdavs_model.data.benchmarks.required_files import found, refuse, require_files
from sdavs_model.data.benchmarks.tables import read_rows
from sdavs_model.data.core.clip_set import ClipSet, Video
from sdavs_model.data.core.images import foreground


class AVSBenchMS3(ClipSet):
    """The multi-source set of AVSBench, or a data set in its layout, one split of it; see `ClipSet`.

    Frames are called `<video>.mp4_<n>.png` and lie in no split folder; sound and masks do. All five frames of a
    clip have a mask, in every split.

    Args:
        root: the folder `Multi-sources`, or the folder that holds it.
        split: a value of the csv's split column.
    """

    kind = "avsbench-ms3"
    protocol = "object"

    @classmethod
    def list_splits(cls, root: Path) -> tuple[str, ...]:
        return tuple(dict.fromkeys(read_table(find_layout(root) / MS3_TABLE).values()))

    def _open(self, root: Path) -> list[Video]:
        self.root = find_layout(root)
        table = read_table(self.root / MS3_TABLE)
        names = [name for name, split in table.items() if split == self.split]
        return [find_video(self.root / MS3_DATA, self.split, name, self.num_frames) for name in names]

    def decode_mask(self, path: Path, stored: np.ndarray) -> np.ndarray:
        return foreground(stored)


def find_layout(root: Path) -> Path:
    """The `Multi-sources` folder that `root` is or holds. Raises ValueError if there is none."""
    if not root.is_dir():
        raise ValueError(f"{root}: no such data folder")
    for folder in (root / MS3_FOLDER, root):
        if (folder / MS3_TABLE).is_file():
            return folder
    raise ValueError(f"{root / MS3_FOLDER / MS3_TABLE}: missing; {root} is not in AVSBench's MS3 layout")


def read_table(path: Path) -> dict[str, str]:
    """{video: split} of a `ms3_meta_data.csv`."""
    return {row["video_id"]: row["split"] for row in read_rows(path, {"video_id": 0, "split": 1})}


def find_video(data: Path, split: str, name: str, num_frames: int) -> Video:
    """The files of one video, each looked for. Raises ValueError naming the first that is missing."""
    frames = data / "visual_frames" / name
    masks = data / "gt_masks" / split / name
    require_pictures(frames, "frames", name, num_frames)
    require_pictures(masks, "masks", name, num_frames)
    numbers = range(1, num_frames + 1)
    video = Video(
        name=name,
        frames=tuple(frames / f"{name}.mp4_{number}.png" for number in numbers),
        masks=tuple(masks / f"{name}_{number}.png" for number in numbers),
        wav=data / "audio_wav" / split / f"{name}.wav",
        log_mel=data / "audio_log_mel" / split / f"{name}.pkl",
        sources=found(data / "sources" / split / f"{name}.json"),
    )
    require_video(video)
    return video


def require_pictures(folder: Path, what: str, name: str, count: int) -> None:
    """Raises ValueError if a folder of frames or masks is missing or holds more than `count` pictures."""
    if not folder.is_dir():
        refuse(f"{folder}: missing, the {what} of video {name!r}")
    num_files = len(list(folder.glob("*.png")))
    if num_files > count:
        refuse(f"{folder}: {num_files} {what}, expected {count}")


def require_video(video: Video) -> None:
    """Raises ValueError naming the first file of an AVSBench-object video that is missing."""
    pictures = [*video.frames, *(mask for mask in video.masks if mask)]
    require_files(pictures, f"one of the {len(video.frames)} of video {video.name!r}")
    assert video.log_mel is not None
    if not video.wav.is_file() and not video.log_mel.is_file():
        refuse(f"{video.wav}: missing, frames without sound (and no {video.log_mel})")
