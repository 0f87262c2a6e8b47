"""The data sets by name, and the one way to open them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    # torch takes seconds to import, and a config is checked without it.
    from sdavs_model.data.core.clip_set import ClipSet
    from sdavs_model.data.core.preprocess import Preprocessor

Kind = Literal["avsbench-s4", "avsbench-ms3", "avsbench-avss", "vpo-ss", "vpo-ms", "vpo-msmi", "avis"]
KindOrAuto = Literal["auto", Kind]
KINDS: tuple[Kind, ...] = get_args(Kind)

MARKS: dict[Kind, tuple[str, ...]] = {
    "avsbench-s4": ("s4_meta_data.csv", "Single-source/s4_meta_data.csv"),
    "avsbench-ms3": ("ms3_meta_data.csv", "Multi-sources/ms3_meta_data.csv"),
    "avsbench-avss": ("label2idx.json", "AVSBench_semantic/label2idx.json"),
    "vpo-ss": ("VPO/VPO-SS",),
    "vpo-ms": ("VPO/VPO-MS",),
    "vpo-msmi": ("VPO/VPO-MSMI",),
    "avis": ("train/JPEGImages", "test/JPEGImages"),
}
"""What of a data set tells its kind; any one of them is enough."""


def set_class(kind: Kind) -> type[ClipSet]:
    """The loader of a kind."""
    from sdavs_model.data.benchmarks import avis, avsbench_avss, avsbench_s4, vpo
    from sdavs_model.data.benchmarks import avsbench_ms3 as avsbench

    loaders: list[type[ClipSet]] = [
        avsbench_s4.AVSBenchS4,
        avsbench.AVSBenchMS3,
        avsbench_avss.AVSBenchAVSS,
        vpo.VPOSS,
        vpo.VPOMS,
        vpo.VPOMSMI,
        avis.AVIS,
    ]
    return next(loader for loader in loaders if loader.kind == kind)


def open_dataset(
    kind: str, root: str | Path, split: str, preprocessor: Preprocessor, **options: Any
) -> ClipSet:
    """One split of a data set.

    Args:
        kind: one of `KINDS`, or "auto": found from the folder.
        root: the data set's folder.
        split: one of its splits.
        preprocessor: makes the tensors.
        options: num_frames, training, augment and seed of `ClipSet`.

    Raises:
        ValueError: an unknown kind, a folder that is none or several of them; and as `ClipSet` says.
    """
    return set_class(known_kind(kind, root))(root=root, split=split, preprocessor=preprocessor, **options)


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
    kinds = [kind for kind in KINDS if any((Path(root) / mark).exists() for mark in MARKS[kind])]
    if len(kinds) != 1:
        found = (
            f"holds several data sets; set data.kind to one of {', '.join(kinds)}"
            if kinds
            else "holds none of"
        )
        raise ValueError(
            f"{root}: {found}" + ("" if kinds else f" {', '.join(KINDS)} (looked for their tables)")
        )
    return kinds[0]


def splits_of(kind: str, root: str | Path) -> tuple[str, ...]:
    """The splits that a data set's tables name.

    Raises:
        ValueError: as `known_kind`; a missing or unreadable table.
    """
    return set_class(known_kind(kind, root)).list_splits(Path(root))
