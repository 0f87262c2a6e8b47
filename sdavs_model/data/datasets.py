"""The data sets by name, and how to open them.

To add a layout: copy the file in `benchmarks/` that is nearest to it (`avsbench_semantic.py` is the shortest), subclass
`ClipSet`, and name it here in `Kind`, `MARKER_FILES` and `LOADERS` (and in `NUM_FRAMES` unless its clips have five
seconds).
`tests/data/test_every_kind.py` then needs a tiny example of it. A protocol of its own goes into `metrics/protocols.py`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from sdavs_model.data.benchmarks.avis import AVIS
from sdavs_model.data.benchmarks.avsbench_object import AVSBenchMS3, AVSBenchS4
from sdavs_model.data.benchmarks.avsbench_semantic import AVSBenchAVSS
from sdavs_model.data.benchmarks.vpo import VPOMS, VPOMSMI, VPOSS
from sdavs_model.data.core.audio import read_audio
from sdavs_model.data.core.clip_set import ClipSet

Kind = Literal["avsbench-s4", "avsbench-ms3", "avsbench-avss", "vpo-ss", "vpo-ms", "vpo-msmi", "avis"]
KindOrAuto = Literal["auto", Kind]
KINDS: tuple[Kind, ...] = get_args(Kind)

MARKER_FILES: dict[Kind, tuple[str, ...]] = {
    "avsbench-s4": ("s4_meta_data.csv", "Single-source/s4_meta_data.csv"),
    "avsbench-ms3": ("ms3_meta_data.csv", "Multi-sources/ms3_meta_data.csv"),
    "avsbench-avss": ("label2idx.json", "AVSBench_semantic/label2idx.json"),
    "vpo-ss": ("VPO/VPO-SS",),
    "vpo-ms": ("VPO/VPO-MS",),
    "vpo-msmi": ("VPO/VPO-MSMI",),
    "avis": ("train/JPEGImages", "test/JPEGImages"),
}
"""Files and folders by which a data set's kind is known; any one of them is enough."""

LOADERS: tuple[type[ClipSet], ...] = (AVSBenchS4, AVSBenchMS3, AVSBenchAVSS, VPOSS, VPOMS, VPOMSMI, AVIS)

NUM_FRAMES = {"avsbench-avss": 10, "vpo-ss": 3, "vpo-ms": 3, "vpo-msmi": 3}
"""Seconds of a clip where they are not the five of AVSBench-object."""


def loader_of(kind: Kind) -> type[ClipSet]:
    """The class that reads a kind."""
    return next(loader for loader in LOADERS if loader.kind == kind)


def open_dataset(
    kind: str,
    root: str | Path,
    split: str,
    *,
    num_frames: int = 5,
    read_sound: Callable[[Path], np.ndarray] = read_audio,
) -> ClipSet:
    """One split of a data set.

    Args:
        kind: one of `KINDS`, or "auto": found from the folder.
        root: the data set's folder.
        split: one of its splits.
        num_frames, read_sound: as in `ClipSet`.

    Raises:
        ValueError: an unknown kind, a folder that is none or several of them; and as `ClipSet` says.
    """
    loader = loader_of(known_kind(kind, root))
    return loader(root=root, split=split, num_frames=num_frames, read_sound=read_sound)


def open_splits(root: Path, kind: str = "auto", *, num_frames: int | None = None) -> dict[str, ClipSet]:
    """All splits of a data set.

    Args:
        root: its folder.
        kind: as in `open_dataset`.
        num_frames: seconds of a clip; None for the benchmark's own number.

    Raises:
        ValueError: as `open_dataset`.
    """
    known = known_kind(kind, root)
    length = num_frames or NUM_FRAMES.get(known, 5)
    return {split: open_dataset(known, root, split, num_frames=length) for split in splits_of(known, root)}


def known_kind(kind: str, root: str | Path) -> Kind:
    """The kind itself, or for "auto" the one that the folder shows.

    Raises:
        ValueError: an unknown kind; a folder that is missing, or none or several of the kinds.
    """
    if kind != "auto":
        if kind not in KINDS:
            raise ValueError(f"data.kind: {kind!r} is not allowed; allowed: auto, {', '.join(KINDS)}")
        return kind
    if not Path(root).is_dir():
        raise ValueError(f"{root}: no such data folder")
    kinds = [kind for kind in KINDS if any((Path(root) / mark).exists() for mark in MARKER_FILES[kind])]
    if len(kinds) > 1:
        raise ValueError(f"{root}: holds several data sets; set data.kind to one of {', '.join(kinds)}")
    if not kinds:
        raise ValueError(f"{root}: holds none of {', '.join(KINDS)} (looked for their tables)")
    return kinds[0]


def splits_of(kind: str, root: str | Path) -> tuple[str, ...]:
    """The splits that a data set's tables name.

    Raises:
        ValueError: as `known_kind`; a missing or unreadable table.
    """
    return loader_of(known_kind(kind, root)).list_splits(Path(root))
