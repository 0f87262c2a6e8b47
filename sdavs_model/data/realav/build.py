"""RealAV: composed clips on disk, in the layouts of the benchmarks, so that the same loaders read both."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdavs_model.data.core.workers import Progress, in_processes, no_progress
from sdavs_model.data.realav.asset_library import ASSETS_FOLDER, AssetLibrary, Pool
from sdavs_model.data.realav.compose import COMPOSER_VERSION, compose_clip
from sdavs_model.data.realav.layouts import LAYOUT_VERSION, LAYOUTS, SUBSETS, write_clip
from sdavs_model.files import is_litter, remove_parts, write_atomically

STAMP_FILE = "realav.json"
STARTED_FILE = "realav.started.json"
CHUNK = 20

# Which assets, and which backgrounds, a split is made of. "new scenes" knows its objects and recordings from
# training and nothing else; the strict ones share nothing with it. They are never mixed in one figure. A split's place
# here is part of the seed of its clips, so a new one goes to the end.
SPLITS: dict[str, tuple[tuple[str, ...], str]] = {
    "train": (("train",), "train"),
    "val": (("val",), "val"),
    "test_new_scenes": (("train",), "test"),
    "test_strict": (("test",), "test"),
    "test_strict_wide": (("test", "test_wide"), "test"),
}
OPTIONAL_SPLITS = ("test_strict_wide",)
"""Splits that a data set may lack (their count may be 0), and that are evaluated only if asked for."""


@dataclass(frozen=True, kw_only=True)
class RealAVConfig:
    """What decides the content of a prepared data set.

    Raises:
        ValueError: a count below 1 (of an optional split: below 0) or a size below 32; the message names the field.
    """

    num_train: int = 1500
    """Clips to train on."""
    num_val: int = 60
    """Clips of assets kept out of training, to choose the checkpoint with."""
    num_test_new_scenes: int = 80
    """Test clips of the training's objects and recordings, over new backgrounds."""
    num_test_strict: int = 80
    """Test clips of objects and recordings that are not used in training."""
    num_test_strict_wide: int = 80
    """The same of more recordings and photographs, those of the strict test among them; 0 leaves the split out."""
    size: int = 128
    """Side of the stored frames in pixels."""
    num_frames: int = 5
    """Frames, and seconds, of a clip."""
    seed: int = 0
    """Another seed gives other clips of the same assets."""
    subset: str = "mixed"
    """What the scenes are like, and the layout: one of `SUBSETS`. "avss" clips have five or ten frames."""

    def __post_init__(self) -> None:
        if self.subset not in SUBSETS:
            raise ValueError(f"subset: {self.subset!r} is not allowed; allowed: {', '.join(SUBSETS)}")
        for split in SPLITS:
            least = 0 if split in OPTIONAL_SPLITS else 1
            if self.count(split) < least:
                raise ValueError(f"num_{split}: {self.count(split)} is below {least}")
        if self.size < 32 or self.num_frames < 1:
            raise ValueError(f"size, num_frames: {self.size}, {self.num_frames} must be at least 32 and 1")

    def count(self, split: str) -> int:
        """The number of clips of a split."""
        return getattr(self, f"num_{split}")

    def as_stamp(self) -> dict[str, Any]:
        """All fields but the counts of splits left out, which earlier versions did not know."""
        absent = {f"num_{split}" for split in OPTIONAL_SPLITS if not self.count(split)}
        return {name: value for name, value in asdict(self).items() if name not in absent}


def prepare(
    root: Path,
    config: RealAVConfig,
    *,
    assets_folder: Path = ASSETS_FOLDER,
    num_workers: int = 1,
    progress: Progress = no_progress,
) -> bool:
    """Compose the data set below the layout's folder in `root`, or find it there and do nothing.

    An interrupted run is continued by the next one with the same config. The csv, without which the loader
    refuses the folder, and the stamp are written last.

    Args:
        root: the folder to write to.
        config: what to write.
        assets_folder: photographs and recordings with their manifest; the bundled ones unless said otherwise.
        num_workers: processes that compose.
        progress: counts clips.

    Returns:
        True if clips were written, False if the data set was complete.

    Raises:
        ValueError: the folder holds a data set that is not RealAV; it is not touched. Or there are no assets for a
            split.
    """
    kind = LAYOUTS[config.subset]
    layout = root / kind.folder
    assets = AssetLibrary(assets_folder)
    _require_assets(config, assets)
    wanted = {
        "config": config.as_stamp(),
        "assets": assets.digest,
        "composer": COMPOSER_VERSION,
        "layout": LAYOUT_VERSION,
    }
    stamp = _read_json(layout / STAMP_FILE)
    if stamp is not None and stamp["made_of"] == wanted and stamp["files"] == _count_files(layout):
        (layout / STARTED_FILE).unlink(missing_ok=True)
        return False
    if stamp is not None or _read_json(layout / STARTED_FILE) != wanted:
        if stamp is None and not (layout / STARTED_FILE).exists() and _holds_anything(layout):
            raise ValueError(f"{layout}: is not empty and not RealAV; choose another folder")
        _remove(layout)
    layout.mkdir(parents=True, exist_ok=True)
    remove_parts(layout)
    write_atomically(layout / STARTED_FILE, json.dumps(wanted))

    total = sum(config.count(split) for split in SPLITS)
    stage = "composing clips" if config.subset == "mixed" else f"composing {config.subset}"
    jobs = list(_jobs(config))
    done = 0
    for count in in_processes(
        write_clips, [(layout, config, assets_folder, *job) for job in jobs], num_workers
    ):
        done += count
        progress(stage, done, total)

    plans = [
        kind.plan(split, index, config.num_frames, assets.categories(*SPLITS[split][0]))
        for split in SPLITS
        for index in range(config.count(split))
    ]
    kind.write_tables(layout, plans, assets.categories("train"))
    stamp = {"made_of": wanted, "files": _count_files(layout)}
    write_atomically(layout / STAMP_FILE, json.dumps(stamp, indent=2))
    # After the stamp: a folder with neither would be taken for another data set.
    (layout / STARTED_FILE).unlink()
    return True


def write_clips(
    layout: Path, config: RealAVConfig, assets_folder: Path, split: str, first: int, last: int
) -> int:
    """Compose and write clips first..last-1 of a split; those already complete are left. Returns how many."""
    kind = LAYOUTS[config.subset]
    assets = AssetLibrary(assets_folder)
    objects, backgrounds = SPLITS[split]
    categories = assets.categories(*objects)
    pool: Pool | None = None
    for index in range(first, last):
        plan = kind.plan(split, index, config.num_frames, categories)
        files = kind.files(layout, plan)
        if files.record.is_file():
            continue
        pool = pool or assets.pool(*objects, backgrounds=backgrounds)
        clip, scene = compose_clip(
            name=plan.name,
            seed=(config.seed, list(SPLITS).index(split), index),
            pool=pool,
            size=config.size,
            num_frames=plan.num_frames,
            scenes=plan.scenes,
            classes=kind.classes(assets.categories("train")),
        )
        write_clip(files, clip, scene)
    return last - first


def _require_assets(config: RealAVConfig, assets: AssetLibrary) -> None:
    """Raises ValueError if an optional split is asked for that the assets were not made for."""
    there = {row["split"] for row in assets.rows}
    for split in OPTIONAL_SPLITS:
        if config.count(split) and (missing := sorted(set(SPLITS[split][0]) - there)):
            raise ValueError(
                f"num_{split}: {config.count(split)}, but {assets.folder} has no assets of {', '.join(missing)}; "
                "allowed here: 0"
            )


def _jobs(config: RealAVConfig) -> Iterator[tuple[str, int, int]]:
    for split in SPLITS:
        for first in range(0, config.count(split), CHUNK):
            yield split, first, min(first + CHUNK, config.count(split))


def _remove(layout: Path) -> None:
    """Delete an outdated data set; renamed first, so that an interrupted deletion is not taken for data."""
    outdated = layout.with_name(f"{layout.name}.outdated")
    shutil.rmtree(outdated, ignore_errors=True)
    if layout.exists():
        layout.rename(outdated)
        shutil.rmtree(outdated)


def _count_files(layout: Path) -> dict[str, int]:
    """The number of data files and their total size in bytes, which show whether any was lost or truncated."""
    count = size = 0
    # The tables and the stamp lie in the layout's own folder, the data below it.
    for folder, _, names in (entry for entry in os.walk(layout) if entry[0] != str(layout)):
        files = [path for name in names if not is_litter(path := Path(folder, name))]
        count += len(files)
        size += sum(path.stat().st_size for path in files)
    return {"count": count, "bytes": size}


def _read_json(path: Path) -> dict | None:
    return json.loads(path.read_text()) if path.is_file() else None


def _holds_anything(folder: Path) -> bool:
    return folder.is_dir() and not all(is_litter(path) for path in folder.iterdir())
