"""The bundle is whole, small, attributed, and nothing of the test splits is known to training."""

import csv
import hashlib
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from sdavs_model.data.realav.asset_library import ASSETS_FOLDER, AssetLibrary

EARLIER_ASSETS = "6e9f3d62fa1a95c5be45a0167f0183a3fcd3b50d1fe8668fd4ce22de80099c06"
"""Of the manifest's rows of all splits but "test_wide": clips of one seed depend on each of them and on their order."""


def rows() -> list[dict[str, str]]:
    return AssetLibrary().rows


def test_every_file_is_in_the_manifest_with_source_licence_and_credit():
    on_disk = {p.relative_to(ASSETS_FOLDER).as_posix() for p in ASSETS_FOLDER.glob("*/*")}
    assert on_disk == {row["path"] for row in rows()}
    attribution = (ASSETS_FOLDER / "ATTRIBUTION.md").read_text()
    for row in rows():
        assert all(row[key] for key in ("sha256", "package", "member", "licence", "credit"))
        assert f"| {row['path']} | {row['credit']} | {row['licence']} |" in attribution


def test_the_bundle_stays_below_10_mb():
    assert sum(p.stat().st_size for p in ASSETS_FOLDER.rglob("*") if p.is_file()) < 10_000_000


def test_no_photograph_or_recording_is_in_two_splits():
    splits = defaultdict(set)
    for row in rows():
        splits[row["sha256"]].add(row["split"])
        splits[row["package"], row["member"]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())


def test_the_assets_of_the_earlier_splits_stay_the_same_in_the_same_order():
    lines = [",".join(row.values()) for row in rows() if row["split"] != "test_wide"]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == EARLIER_ASSETS


def test_the_wider_strict_split_adds_recordings_of_every_category_but_no_backgrounds_or_noises():
    assets = AssetLibrary()
    strict, wide = assets.pool("test"), assets.pool("test", "test_wide")
    assert wide.categories == strict.categories
    assert [photo.sha256 for photo in wide.backgrounds] == [photo.sha256 for photo in strict.backgrounds]
    assert wide.noises.keys() == strict.noises.keys()
    for category in wide.categories:
        assert len(wide.sounds[category]) >= 4
        for kind in ("photos", "sounds"):
            before, after = (
                {asset.sha256 for asset in getattr(pool, kind)[category]} for pool in (strict, wide)
            )
            assert before <= after


def test_every_category_has_photographs_and_recordings_in_training_and_in_the_strict_test():
    pools = {split: AssetLibrary().pool(split) for split in ("train", "val", "test")}
    assert len(pools["train"].categories) == 11
    assert pools["train"].categories == pools["test"].categories
    assert set(pools["val"].categories) < set(pools["train"].categories)
    assert len(pools["val"].categories) >= 4
    assert sum(len(pool.backgrounds) for pool in pools.values()) >= 20
    assert set(pools["train"].noises) == {"moving_train", "water"}


def test_a_looped_recording_is_audible_for_most_of_any_second():
    for split in ("train", "val", "test", "test_wide"):
        for category, recordings in AssetLibrary().pool(split).sounds.items():
            for number, recording in enumerate(r.samples for r in recordings):
                looped = np.tile(recording.astype(np.float64), -(-5 * 16000 // len(recording)))
                power = np.mean(looped[: len(looped) // 160 * 160].reshape(-1, 160) ** 2, axis=1)
                audible = np.cumsum(power > np.mean(looped**2) / 400)
                # 90 blocks of 10 ms: a second less the latest start and the earliest stop of a source.
                worst = (audible[90:] - audible[:-90]).min()
                assert worst >= 68, f"{split} {category} {number}: {worst}0 ms"


def test_a_changed_or_missing_asset_is_refused_with_its_file_name(tmp_path: Path):
    shutil.copytree(ASSETS_FOLDER, tmp_path, dirs_exist_ok=True)
    victim = tmp_path / "photos" / "dog_01.webp"
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"dog_01\.webp: does not have the sha256"):
        AssetLibrary(tmp_path).pool("train")
    victim.unlink()
    with pytest.raises(ValueError, match=r"dog_01\.webp: missing"):
        AssetLibrary(tmp_path).pool("train")


def test_the_manifest_is_a_plain_table():
    with (ASSETS_FOLDER / "manifest.csv").open(newline="") as file:
        header = next(csv.reader(file))
    assert header == ["path", "kind", "category", "split", "sha256", "package", "member", "licence", "credit"]
