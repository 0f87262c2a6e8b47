"""Validation lists every defect of a data set with its file; stats and digests say what is there."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from layouts import write_avis, write_s4, write_vpo
from PIL import Image
from waiting import patience

from sdavs_model.data.core.clip_set import total_digest
from sdavs_model.data.core.statistics import statistics
from sdavs_model.data.datasets import open_splits
from sdavs_model.data.realav.build import SPLITS, RealAVConfig, prepare
from sdavs_model.data.tools.validate import validate


@pytest.fixture(scope="module")
def avss(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips in AVSBench-semantic's layout, one a split."""
    root = tmp_path_factory.mktemp("avss")
    one = {f"num_{split}": int(split != "test_strict_wide") for split in SPLITS}
    prepare(root, RealAVConfig(**one, size=32, subset="avss"))
    return root


@pytest.fixture
def broken(realav: Path, tmp_path: Path) -> Path:
    """A copy of the small MS3-like data set, to break."""
    shutil.copytree(realav, tmp_path, dirs_exist_ok=True)
    return tmp_path


def has(defects: tuple[str, ...], file: str, words: str) -> bool:
    return sum(file in defect and words in defect for defect in defects) == 1


def test_a_sound_data_set_has_no_defects(realav, avss, tmp_path):
    assert validate(realav).defects == ()
    assert validate(avss).num_clips == {"train": 1, "val": 1, "test_new_scenes": 1, "test_strict": 1}
    write_s4(tmp_path)
    report = validate(tmp_path)
    assert report.kind == "avsbench-s4"
    assert report.defects == ()


def test_every_defect_is_listed_with_its_file_and_not_only_the_first(broken):
    data = broken / "Multi-sources" / "ms3_data"
    masks = data / "gt_masks" / "train"
    (data / "visual_frames/train_00000/train_00000.mp4_2.png").unlink()
    (data / "visual_frames/train_00000/train_00000.mp4_4.png").write_bytes(b"no picture")
    (masks / "train_00001/train_00001_5.png").unlink()
    Image.new("L", (40, 48)).save(masks / "train_00002/train_00002_1.png")
    Image.fromarray(np.arange(48 * 48, dtype=np.uint16).astype(np.uint8).reshape(48, 48)).save(
        masks / "train_00002/train_00002_2.png"
    )
    Image.new("RGB", (30, 30)).save(data / "visual_frames/train_00003/train_00003.mp4_3.png")
    (data / "audio_wav/train/train_00004.wav").unlink()
    wav = data / "audio_wav/val/val_00000.wav"
    wav.write_bytes(wav.read_bytes()[:5000])
    shutil.rmtree(masks / "train_00005")
    extra = data / "visual_frames/val_00001"
    shutil.copy(extra / "val_00001.mp4_1.png", extra / "val_00001.mp4_6.png")
    defects = validate(broken, num_workers=2).defects
    for file, words in (
        ("train_00000.mp4_2.png", "missing"),
        ("train_00000.mp4_4.png", "cannot be read"),
        ("train_00001_5.png", "missing"),
        ("train_00002_1.png", "40x48"),
        ("train_00002_2.png", "256 grey values"),
        ("train_00003.mp4_3.png", "30x30, but train_00003.mp4_1.png is 48x48"),
        ("train_00004.wav", "without sound"),
        ("val_00000.wav", "truncated wav"),
        ("train_00005:", "missing, the masks"),
        ("val_00001:", "6 frames, expected 5"),
    ):
        assert has(defects, file, words), (file, defects)


def test_unknown_colours_and_classes_in_masks_are_listed(avss, tmp_path):
    shutil.copytree(avss, tmp_path, dirs_exist_ok=True)
    clip = tmp_path / "AVSBench_semantic" / "v2" / "train_00000"
    Image.new("RGB", (32, 32), (1, 2, 3)).save(clip / "labels_rgb" / "4.png")
    Image.new("L", (32, 32), 200).save(clip / "labels_semantic" / "5.png")
    defects = validate(tmp_path).defects
    assert has(defects, "labels_rgb/4.png", "1024 pixels of no class's colour, such as (1, 2, 3)")
    assert has(defects, "labels_semantic/5.png", "values up to 200")


def test_vpo_and_avis_are_validated_file_by_file_as_well(tmp_path):
    write_vpo(tmp_path)
    write_avis(tmp_path)
    assert validate(tmp_path, "vpo-ms").defects == validate(tmp_path, "avis").defects == ()
    wav = next((tmp_path / "test" / "WAVAudios").iterdir())
    wav.write_bytes(wav.read_bytes()[:99])
    frame = next((tmp_path / "train" / "JPEGImages").rglob("*.jpg"))
    frame.unlink()
    mask = next((tmp_path / "VPO" / "VPO-SS" / "mask").rglob("*.png"))
    Image.new("L", (24, 16), 200).save(mask)
    defects = (*validate(tmp_path, "avis").defects, *validate(tmp_path, "vpo-ss").defects)
    assert has(defects, wav.name, "truncated wav")
    assert has(defects, frame.name, "missing")
    assert has(defects, mask.name, "unknown values [200]")


@pytest.mark.slow
def test_the_command_exits_with_1_for_defects_and_speaks_json(broken):
    job = [sys.executable, "jobs/prepare_data.py", "validate", str(broken), "--json", "--workers=1"]
    (broken / "Multi-sources/ms3_data/audio_wav/train/train_00004.wav").unlink()
    ran = subprocess.run(job, capture_output=True, text=True, timeout=patience(60))
    assert ran.returncode == 1
    report = json.loads(ran.stdout)
    assert report["num_clips"]["train"] == 6
    assert "train_00004.wav" in report["defects"][0]


def test_statistics_count_what_is_seen_and_heard(realav):
    splits = open_splits(realav)
    numbers = statistics(splits["train"], num_workers=2)
    assert (numbers["clips"], numbers["frames"], numbers["masks"]) == (6, 30, 30)
    assert numbers["sizes"] == {"48x48": 6}
    assert 0.02 < numbers["mean_share_of_pixels"] < 0.6
    assert sum(numbers["categories"].values()) >= 6
    masks = [splits["train"].clip(index).masks for index in range(6)]
    assert numbers["masks_with_sound"] == sum(int(mask.any()) for clip in masks for mask in clip)


def test_the_digest_is_the_same_anywhere_and_changes_with_any_byte(realav, broken):
    def digest(root: Path) -> str:
        return total_digest({split: clips.digest for split, clips in open_splits(root).items()})

    before = digest(realav)
    assert digest(broken) == before
    path = broken / "Multi-sources/ms3_data/audio_wav/val/val_00000.wav"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    assert digest(broken) != before
