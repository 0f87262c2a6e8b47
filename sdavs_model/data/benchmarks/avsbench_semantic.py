"""AVSBench-semantic (AVSS): up to ten frames a clip, 71 classes."""

import re
from pathlib import Path

import numpy as np

from sdavs_model.data.benchmarks.layout_files import find_layout, found, list_values, read_rows, require_files
from sdavs_model.data.benchmarks.palette import read_class_mask, read_classes, read_colours
from sdavs_model.data.core.clip import ClipFiles
from sdavs_model.data.core.clip_set import ClipSet
from sdavs_model.files import as_on_disk

AVSS_FOLDER = "AVSBench_semantic"
AVSS_TABLE = "metadata.csv"
AVSS_CLASSES = "label2idx.json"
AVSS_NUM_FRAMES = {"v1s": 5, "v1m": 5, "v2": 10}
"""Frames of a clip by its part: AVSBench's single-source and multi-source clips, and the new ones."""

COLUMNS = {"uid": 1, "split": 5, "label": 6}
TRAIN = "train"
OBJECTS_FILE = "visible_objects.png"
"""RealAV's own addition: all visible objects of a clip, sounding or silent."""


class AVSBenchAVSS(ClipSet):
    """AVSBench-semantic, one split of it; see `ClipSet`.

    Clips of `v1s` and `v1m` have five frames, of `v2` ten; shorter ones are padded with zeros, pictures and
    log-mel alike, as the official loader does (`present` says where). `v1s` clips of the split "train" have a
    mask for the first frame alone. Masks are read from `labels_semantic` (indices), else from `labels_rgb`
    (colours; unknown ones are background, with a warning that names the file).

    Args:
        root: the folder with `metadata.csv` and `label2idx.json`, or the folder that holds it under the name
            `AVSBench_semantic`.
        split: a value of the csv's split column.
        num_frames: at least the longest clip of the split; 10 for the published set.
    """

    kind = "avsbench-avss"
    protocol = "semantic"

    @classmethod
    def list_splits(cls, root: Path) -> tuple[str, ...]:
        return list_values(find_layout(root, AVSS_FOLDER, AVSS_TABLE) / AVSS_TABLE, COLUMNS, "split")

    def _open(self, root: Path) -> list[ClipFiles]:
        self.root = find_layout(root, AVSS_FOLDER, AVSS_TABLE)
        self.tables = (self.root / AVSS_CLASSES,)
        self.classes = read_classes(self.root / AVSS_CLASSES)
        rows = read_rows(self.root / AVSS_TABLE, COLUMNS)
        heard = read_heard(self.root / AVSS_TABLE)
        chosen = [(row["label"], row["uid"]) for row in rows if row["split"] == self.split]
        return [self._find(label, uid, heard.get(uid, "")) for label, uid in chosen]

    def read_mask(self, path: Path) -> np.ndarray:
        read = read_colours if path.parent.name == "labels_rgb" else read_class_mask
        return read(path, len(self.classes))

    def _find(self, label: str, uid: str, category: str) -> ClipFiles:
        folder = as_on_disk(self.root / label / uid)
        if label not in AVSS_NUM_FRAMES:
            raise ValueError(
                f"{self.root / AVSS_TABLE}: label {label!r} of {uid}; allowed: {', '.join(AVSS_NUM_FRAMES)}"
            )
        num_frames = AVSS_NUM_FRAMES[label]
        if num_frames > self.num_frames:
            raise ValueError(
                f"num_frames: {self.num_frames}, but {folder} has {num_frames}; allowed: from {num_frames}"
            )
        num_masks = 1 if label == "v1s" and self.split == TRAIN else num_frames
        masks = folder / ("labels_semantic" if (folder / "labels_semantic").is_dir() else "labels_rgb")
        files = ClipFiles(
            name=uid,
            frames=tuple(folder / "frames" / f"{number}.jpg" for number in range(num_frames)),
            masks=tuple(masks / f"{n}.png" if n < num_masks else None for n in range(num_frames)),
            wav=folder / "audio.wav",
            category=category,
            sources=found(folder / "sources.json"),
            objects=found(folder / OBJECTS_FILE),
        ).as_on_disk()
        require_files(files.paths, f"a file of clip {uid!r} ({label}, {num_frames} frames)")
        return files


def read_heard(table: Path) -> dict[str, str]:
    """{uid: categories heard}, from the column `a_obj`; empty if the table has none.

    How the column separates several categories is not documented, so every run of letters counts as one:
    swapped sound is then never taken from a clip that might share a category.
    """
    try:
        rows = read_rows(table, {"uid": 1, "a_obj": None})
    except ValueError:
        return {}
    return {row["uid"]: "+".join(sorted(set(re.findall(r"[A-Za-z]+", row["a_obj"])))) for row in rows}
