"""RealAV's datasheet: what was composed of what, under which licences, proved apart, with a contact sheet."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from sdavs_model.data.core.clip_set import ClipSet, total_digest
from sdavs_model.data.core.statistics import statistics
from sdavs_model.data.core.workers import Progress, no_progress
from sdavs_model.data.realav.asset_library import AssetLibrary
from sdavs_model.files import write_atomically

THUMBNAIL = 112
CAPTION = 14
MARKED = (255, 60, 60)

APART = (("train", "val", "test_strict"), ("train", "val", "test_strict_wide"))
"""Groups of splits that share no photograph, recording or background, each with each. The strict ones share theirs."""


def write_datasheet(
    out: Path,
    subsets: Mapping[str, Mapping[str, ClipSet]],
    assets: AssetLibrary,
    *,
    command: str,
    num_workers: int = 1,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write `DATASHEET.md`, `datasheet.json` and `contact_sheet.jpg` into `out`.

    Args:
        out: the folder of the subsets.
        subsets: {subset: {split: clips}}.
        assets: what they are composed of.
        command: the one that made the data set.
        num_workers: threads that read.
        progress: called after every split; counts clips.

    Returns:
        What `datasheet.json` holds.

    Raises:
        ValueError: two splits that must be apart share an asset; names both and the asset.
    """
    sheet: dict[str, Any] = {"command": command, "assets": _describe(assets), "subsets": {}}
    made_of: dict[str, set[str]] = {}
    done, total = 0, sum(len(clips) for splits in subsets.values() for clips in splits.values())
    progress("describing", done, total)
    for subset, splits in subsets.items():
        described: dict[str, dict[str, Any]] = {}
        for split, clips in splits.items():
            described[split] = {**statistics(clips, num_workers=num_workers), "digest": clips.digest}
            done += len(clips)
            progress("describing", done, total)
        sheet["subsets"][subset] = {
            "kind": next(iter(splits.values())).kind,
            "digest": total_digest({split: clips.digest for split, clips in splits.items()}),
            "splits": described,
        }
        for split in dict.fromkeys(split for group in APART for split in group if split in splits):
            made_of.setdefault(split, set()).update(asset_digests(splits[split]))
    for group in APART:
        require_apart({split: made_of[split] for split in group if split in made_of}, assets)
    sheet["apart"] = {split: len(digests) for split, digests in made_of.items()}
    contact_sheet([clips["train"] for clips in subsets.values()], list(subsets)).save(
        out / "contact_sheet.jpg", quality=90
    )
    write_atomically(out / "datasheet.json", json.dumps(sheet, indent=2))
    write_atomically(out / "DATASHEET.md", as_text(sheet))
    return sheet


def asset_digests(clips: ClipSet) -> set[str]:
    """The sha256 of every photograph and recording that a composed split is made of.

    Raises:
        ValueError: a clip does not say what it is made of; names it.
    """
    digests: set[str] = set()
    for files in clips.files:
        record = {} if files.sources is None else json.loads(files.sources.read_text())
        if "assets" not in record:
            raise ValueError(f"{files.name}: has no record of its assets; it is not of RealAV")
        digests.update(record["assets"])
    return digests


def require_apart(made_of: Mapping[str, set[str]], assets: AssetLibrary) -> None:
    """Raises ValueError if two splits share a photograph, recording or background."""
    names = {row["sha256"]: row["path"] for row in assets.rows}
    for one, other in combinations(made_of, 2):
        if shared := sorted(made_of[one] & made_of[other]):
            raise ValueError(f"{names.get(shared[0], shared[0])}: is used in both {one} and {other}")


def as_text(sheet: Mapping[str, Any]) -> str:
    """The datasheet for people."""
    groups = [[split for split in group if split in sheet["apart"]] for group in APART]
    apart = ", nor of ".join(", ".join(group) for group in groups if len(group) == len(APART[0]))
    lines = [
        "# RealAV",
        "",
        "Composed audio-visual clips: photographs cut out along their alpha channel move over photographs, with",
        "recordings of what is seen, of what is not, and of the environment. It is small, and neither VPO nor",
        "AVSBench: never compare a figure on it with theirs.",
        "",
        f"Made by `{sheet['command']}`.",
        "",
        "![Clips of each subset; what sounds is outlined](contact_sheet.jpg)",
        "",
        "## Splits",
        "",
        f"No photograph, recording or background is in two of {apart}; this was checked clip by clip on the",
        "digests that each clip records ("
        + ", ".join(f"{split}: {count} files" for split, count in sheet["apart"].items())
        + ").",
        "`test_new_scenes` has the objects and recordings of train, over the backgrounds of the strict test.",
        "",
        "| subset | layout | split | clips | frames | masks | with sound | share of pixels | categories heard |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for subset, content in sheet["subsets"].items():
        for split, numbers in content["splits"].items():
            lines.append(
                f"| {subset} | {content['kind']} | {split} | {numbers['clips']} | {numbers['frames']} | "
                f"{numbers['masks']} | {numbers['masks_with_sound']} | {numbers['mean_share_of_pixels']:.3f} | "
                f"{len(numbers['categories'])} |"
            )
    lines += ["", "## Digests", "", "| subset | sha256 over all splits |", "|---|---|"]
    lines += [f"| {subset} | `{content['digest']}` |" for subset, content in sheet["subsets"].items()]
    assets = sheet["assets"]
    lines += [
        "",
        "## Assets",
        "",
        f"Manifest: sha256 `{assets['digest']}`.",
        "",
        "| kind | split | files |",
        "|---|---|---|",
    ]
    lines += [f"| {' | '.join(key.split('/'))} | {count} |" for key, count in assets["files"].items()]
    lines += ["", "| package | licence of the files used | files |", "|---|---|---|"]
    lines += [f"| {' | '.join(key.split('/', 1))} | {count} |" for key, count in assets["licences"].items()]
    lines += [
        "",
        "Author and licence of every single file are in `assets/manifest.csv`. The clips are adaptations of all of",
        "them: who passes them on must respect each licence, share-alike ones included.",
        "",
    ]
    return "\n".join(lines)


def contact_sheet(sets: Sequence[ClipSet], names: Sequence[str], *, num_clips: int = 2) -> Image.Image:
    """A few clips of each set, one a row, frame by frame; what sounds is outlined."""
    rows = [
        (f"{name}: {clips.categories[index] or 'unknown'}", clips, index)
        for name, clips in zip(names, sets, strict=True)
        for index in range(0, len(clips), max(1, len(clips) // num_clips))[:num_clips]
    ]
    num_columns = max(len(clips.files[index].frames) for _, clips, index in rows)
    sheet = Image.new("RGB", (num_columns * THUMBNAIL, len(rows) * (THUMBNAIL + CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (caption, clips, index) in enumerate(rows):
        top = number * (THUMBNAIL + CAPTION)
        draw.text((2, top + 1), caption, fill="black")
        clip = clips.clip(index)
        assert clip.masks is not None
        for column, (frame, mask) in enumerate(zip(clip.frames, clip.masks, strict=True)):
            picture = outlined(frame, mask > 0)
            picture.thumbnail((THUMBNAIL - 2, THUMBNAIL - 2))
            sheet.paste(picture, (column * THUMBNAIL, top + CAPTION))
    return sheet


def outlined(frame: np.ndarray, mask: np.ndarray) -> Image.Image:
    """The frame [H, W, 3] with the border of the mask [H, W] bool drawn inside it, two pixels wide."""
    inside = mask.copy()
    for _ in range(2):
        kept = inside.copy()
        for axis in (0, 1):
            for shift in (-1, 1):
                kept &= np.roll(inside, shift, axis)
        inside = kept
    picture = frame.copy()
    picture[mask & ~inside] = MARKED
    return Image.fromarray(picture)


def _describe(assets: AssetLibrary) -> dict[str, Any]:
    files = Counter(f"{row['kind']}/{row['split']}" for row in assets.rows)
    licences = Counter(f"{row['package']}/{row['licence']}" for row in assets.rows)
    return {
        "digest": assets.digest,
        "files": dict(sorted(files.items())),
        "licences": dict(sorted(licences.items())),
    }
