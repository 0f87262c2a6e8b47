"""AVSBench's single-source set (S4): five frames a clip, and one mask alone in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sdavs_model.data.benchmarks.avsbench_ms3 import require_pictures, require_video
from sdavs_model.data.benchmarks.layout_names import S4_DATA, S4_FOLDER, S4_TABLE
from sdavs_model.data.benchmarks.required_files import found
from sdavs_model.data.benchmarks.tables import folder_of, list_values, read_rows
from sdavs_model.data.core.clip_set import ClipSet, Video
from sdavs_model.data.core.images import foreground

COLUMNS = {"video_name": 0, "category": 2, "split": 3}
TRAIN = "train"


class AVSBenchS4(ClipSet):
    """The single-source set of AVSBench, one split of it; see `ClipSet`.

    In the split "train" only the first frame has a mask (`valid`), elsewhere all five have.

    Args:
        root: the folder `Single-source`, or the folder that holds it.
        split: a value of the csv's split column.
    """

    kind = "avsbench-s4"
    protocol = "object"

    @classmethod
    def list_splits(cls, root: Path) -> tuple[str, ...]:
        return list_values(folder_of(root, S4_FOLDER, S4_TABLE) / S4_TABLE, COLUMNS, "split")

    def _open(self, root: Path) -> list[Video]:
        self.root = folder_of(root, S4_FOLDER, S4_TABLE)
        rows = read_rows(self.root / S4_TABLE, COLUMNS)
        chosen = [(row["category"], row["video_name"]) for row in rows if row["split"] == self.split]
        return [find_video(self.root / S4_DATA, self.split, *names, self.num_frames) for names in chosen]

    def decode_mask(self, path: Path, stored: np.ndarray) -> np.ndarray:
        return foreground(stored)


def find_video(data: Path, split: str, category: str, name: str, num_frames: int) -> Video:
    """The files of one video, each looked for. Raises ValueError naming the first that is missing."""
    folder = Path(split) / category
    frames = data / "visual_frames" / folder / name
    masks = data / "gt_masks" / folder / name
    num_masks = 1 if split == TRAIN else num_frames
    require_pictures(frames, "frames", name, num_frames)
    require_pictures(masks, "masks", name, num_masks)
    numbers = range(1, num_frames + 1)
    video = Video(
        name=name,
        frames=tuple(frames / f"{name}_{number}.png" for number in numbers),
        masks=tuple(masks / f"{name}_{number}.png" if number <= num_masks else None for number in numbers),
        wav=data / "audio_wav" / folder / f"{name}.wav",
        log_mel=data / "audio_log_mel" / folder / f"{name}.pkl",
        category=category,
        sources=found(data / "sources" / folder / f"{name}.json"),
    )
    require_video(video)
    return video
