"""Preparing the data set is repeatable, resumable, and never touches somebody else's data."""

import csv
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sdavs_platform.evaluation.registered_model import test_splits as splits_scored_by_default
from waiting import patience

from sdavs_model.data.benchmarks.avsbench_object import AVSBenchMS3
from sdavs_model.data.datasets import open_splits
from sdavs_model.data.realav.asset_library import ASSETS_FOLDER, AssetLibrary
from sdavs_model.data.realav.build import SPLITS, prepare
from sdavs_model.data.realav.datasheet import APART, asset_digests, require_apart
from sdavs_model.data.training_clips import open_training_clips


def digests(root: Path, preprocessor) -> dict[str, str]:
    return {split: AVSBenchMS3(root=root, split=split).digest for split in SPLITS}


def test_the_five_splits_are_in_the_csv_with_avsbenchs_columns_first(realav):
    with (realav / "Multi-sources" / "ms3_meta_data.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["video_id", "split"]
    assert [split for _, split in rows].count("train") == 6
    assert {split for _, split in rows} == set(SPLITS)


def test_a_new_split_changes_no_clip_of_the_others():
    # A split's place is part of the seed.
    assert list(SPLITS)[:4] == ["train", "val", "test_new_scenes", "test_strict"]


def test_both_strict_splits_share_no_asset_with_train_and_val(realav):
    splits = open_splits(realav)
    used = {split: asset_digests(clips) for split, clips in splits.items()}
    for group in APART:
        require_apart({split: used[split] for split in group}, AssetLibrary())
    split_of = {row["sha256"]: row["split"] for row in AssetLibrary().rows}
    assert {split_of[digest] for digest in used["test_strict_wide"]} == {"test", "test_wide"}


def test_a_count_of_0_leaves_the_wider_strict_split_out_as_earlier_versions_did(realav, small, tmp_path):
    without = dataclasses.replace(small, num_train=1, num_test_strict_wide=0)
    assert prepare(tmp_path, without)
    assert list(open_splits(tmp_path)) == ["train", "val", "test_new_scenes", "test_strict"]
    stamp = json.loads((tmp_path / "Multi-sources" / "realav.json").read_text())
    assert "num_test_strict_wide" not in stamp["made_of"]["config"]
    assert not prepare(tmp_path, without)
    for split in ("val", "test_new_scenes", "test_strict"):
        assert AVSBenchMS3(root=tmp_path, split=split).digest == AVSBenchMS3(root=realav, split=split).digest


def test_the_wider_strict_split_is_scored_only_if_asked_for(realav):
    assert splits_scored_by_default(realav, "avsbench-ms3") == ["test_new_scenes", "test_strict"]


def test_a_wider_strict_split_of_assets_that_have_none_is_refused(small, tmp_path):
    assets = tmp_path / "assets"
    shutil.copytree(ASSETS_FOLDER, assets)
    manifest = (assets / "manifest.csv").read_text()
    (assets / "manifest.csv").write_text(
        "".join(line for line in manifest.splitlines(True) if ",test_wide," not in line)
    )
    with pytest.raises(ValueError, match=r"num_test_strict_wide: 2, but .* has no assets of test_wide"):
        prepare(tmp_path, small, assets_folder=assets)


def test_a_second_run_does_nothing_and_an_interrupted_one_continues_to_the_same_bytes(
    realav, small, tmp_path, preprocessor
):
    assert not prepare(realav, small)

    class Interrupted(Exception):
        pass

    def interrupt(stage: str, done: int, total: int) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        prepare(tmp_path, small, progress=interrupt)
    with pytest.raises(ValueError, match=r"ms3_meta_data\.csv: missing"):
        AVSBenchMS3(root=tmp_path, split="train")
    kept = tmp_path / "Multi-sources/ms3_data/sources/train/train_00000.json"
    before = kept.stat().st_mtime_ns
    assert prepare(tmp_path, small)
    assert kept.stat().st_mtime_ns == before
    assert digests(tmp_path, preprocessor) == digests(realav, preprocessor)


@pytest.mark.slow
def test_a_lost_file_or_another_config_is_noticed_and_rebuilt(small, tmp_path, preprocessor):
    small = dataclasses.replace(
        small, num_train=1, num_val=1, num_test_new_scenes=1, num_test_strict=1, num_test_strict_wide=1
    )
    prepare(tmp_path, small)
    first = digests(tmp_path, preprocessor)
    next((tmp_path / "Multi-sources/ms3_data/visual_frames").rglob("*.png")).unlink()
    assert prepare(tmp_path, small)
    assert digests(tmp_path, preprocessor) == first
    assert prepare(tmp_path, dataclasses.replace(small, seed=1))
    assert digests(tmp_path, preprocessor) != first


def test_a_folder_with_other_data_is_left_alone(small, tmp_path):
    table = tmp_path / "Multi-sources" / "ms3_meta_data.csv"
    table.parent.mkdir()
    table.write_text("video_id,split\nreal,train\n")
    with pytest.raises(ValueError, match="not RealAV"):
        prepare(tmp_path, small)
    table.rename(table.with_name("notes.txt"))
    with pytest.raises(ValueError, match="not RealAV"):
        prepare(tmp_path, small)
    assert table.with_name("notes.txt").read_text().endswith("real,train\n")


@pytest.mark.slow
def test_the_job_composes_in_parallel_what_one_process_composes(realav, small, tmp_path, preprocessor):
    flags = [
        f"--{field.name.replace('_', '-')}={getattr(small, field.name)}"
        for field in dataclasses.fields(small)
        if field.name != "subset"
    ]
    job = [sys.executable, "jobs/prepare_data.py", "--out", str(tmp_path), "--workers=2", *flags]
    done = subprocess.run(job, capture_output=True, text=True, check=True, timeout=patience(120))
    assert "RealAV written" in done.stdout
    assert digests(tmp_path, preprocessor) == digests(realav, preprocessor)
    wrong = subprocess.run([*job, "--size=3"], capture_output=True, text=True, timeout=patience(60))
    assert wrong.returncode != 0
    assert wrong.stderr.startswith("prepare_data.py: size")


def test_a_file_of_each_clip_shows_all_visible_objects_and_is_no_part_of_what_was_trained_on(
    realav, tmp_path, preprocessor
):
    for split in SPLITS:
        clips = open_training_clips("avsbench-ms3", realav, split, preprocessor)
        for index, seen in enumerate(clips.seen):
            objects, masks = clips.objects(index), clips[index]["masks"]
            assert objects.shape == masks.shape
            assert 1 <= objects.max() <= len(seen.split("+"))
            assert bool((objects[masks > 0] > 0).all())
            assert not set(clips.source.files[index].paths) & {clips.source.files[index].objects}
            assert len(clips.source.assets[index]) >= 3
    # As an earlier version wrote it.
    old = shutil.copytree(realav, tmp_path / "old")
    shutil.rmtree(old / "Multi-sources/ms3_data/visible_objects")
    assert digests(old, preprocessor) == digests(realav, preprocessor)
    with pytest.raises(ValueError, match="no file of the visible objects of clip 'val_00000'"):
        AVSBenchMS3(root=old, split="val").objects(0)


def test_the_record_says_who_sounds_in_every_second(realav):
    record = json.loads((realav / "Multi-sources/ms3_data/sources/train/train_00001.json").read_text())
    assert len(record["seconds"]) == 5
    assert set(record) == {"heard", "seen", "objects", "seconds", "noise", "assets"}
