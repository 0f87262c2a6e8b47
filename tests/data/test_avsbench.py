"""The loader reads AVSBench's own layout, and refuses a broken copy naming the file."""

import os
import pickle
import re
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdavs_model import PreprocessConfig
from sdavs_model.data.augment.config import Augment
from sdavs_model.data.benchmarks.avsbench_object import AVSBenchMS3
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.data.training_clips import TrainingClips

VIDEO = "train_00000"


@pytest.fixture
def copy(realav: Path, tmp_path: Path) -> Path:
    """A copy of the data set to break; returns its ms3_data folder."""
    shutil.copytree(realav, tmp_path, dirs_exist_ok=True)
    return tmp_path / "Multi-sources" / "ms3_data"


def load(data: Path, preprocessor: Preprocessor) -> TrainingClips:
    return TrainingClips(AVSBenchMS3(root=data.parent, split="train"), preprocessor)


def assert_refused(data: Path, preprocessor: Preprocessor, *words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words[0])) as refusal:
        load(data, preprocessor)[0]
    for word in words:
        assert word in str(refusal.value)


def test_items_have_the_shapes_of_the_model_and_come_in_the_order_of_the_csv(realav, preprocessor):
    data = TrainingClips(AVSBenchMS3(root=realav, split="train"), preprocessor)
    assert data.source.splits == ("train", "val", "test_new_scenes", "test_strict", "test_strict_wide")
    assert len(data) == 6
    item = data[0]
    assert item["name"] == VIDEO
    assert item["frames"].shape == (5, 3, 32, 32)
    assert item["log_mel"].shape == (5, 1, 96, 64)
    assert item["masks"].shape == (5, 32, 32)
    assert set(item["masks"].unique().tolist()) <= {0, 1}
    assert item["category"]


def test_the_folder_itself_and_its_parent_are_both_accepted_and_give_one_digest(realav):
    parent = AVSBenchMS3(root=realav, split="val")
    inner = AVSBenchMS3(root=realav / "Multi-sources", split="val")
    assert parent.digest == inner.digest
    assert parent.digest != AVSBenchMS3(root=realav, split="train").digest


def test_csv_columns_are_found_by_name_and_else_by_position(copy, preprocessor):
    table = copy.parent / "ms3_meta_data.csv"
    table.write_text(f"split,note,video_id\ntrain,x,{VIDEO}\n")
    assert load(copy, preprocessor)[0]["name"] == VIDEO
    table.write_text(f"name,part\n{VIDEO},train\n")
    assert load(copy, preprocessor)[0]["name"] == VIDEO


def test_palette_masks_and_masks_of_zero_and_one_are_read_as_foreground(copy, preprocessor):
    before = load(copy, preprocessor)[0]["masks"]
    for path in (copy / "gt_masks" / "train" / VIDEO).iterdir():
        index = (np.asarray(Image.open(path)) > 0).astype(np.uint8)
        image = Image.fromarray(index).convert("P")
        image.putpalette([0, 0, 0, 200, 10, 10])
        image.save(path)
    assert torch.equal(load(copy, preprocessor)[0]["masks"], before)


def test_stored_log_mel_takes_the_place_of_missing_sound_without_running_its_pickle(copy, tmp_path):
    official = Preprocessor(PreprocessConfig(image_size=32, audio_window="official"))
    (copy / "audio_wav" / "train" / f"{VIDEO}.wav").unlink()
    stored = copy / "audio_log_mel" / "train" / f"{VIDEO}.pkl"
    stored.parent.mkdir(parents=True)
    tensor = torch.randn(5, 1, 96, 64, requires_grad=True)
    stored.write_bytes(pickle.dumps(tensor))
    assert torch.equal(load(copy, official)[0]["log_mel"], tensor.detach())
    assert_refused(copy, Preprocessor(PreprocessConfig(image_size=32)), stored.name, "audio_window")

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harmed"),)

    stored.write_bytes(pickle.dumps(Attack()))
    assert_refused(copy, official, stored.name, "refused to run posix.mkdir")
    assert not (tmp_path / "harmed").exists()
    stored.write_bytes(pickle.dumps(torch.zeros(4, 1, 96, 64)))
    assert_refused(copy, official, stored.name, "[4, 1, 96, 64]")


def test_a_missing_folder_csv_or_split_is_refused(copy, preprocessor, tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such data folder"):
        AVSBenchMS3(root=tmp_path / "nowhere", split="train")
    with pytest.raises(ValueError, match="no split 'dev'; it has train, val"):
        AVSBenchMS3(root=copy.parent, split="dev")
    (copy.parent / "ms3_meta_data.csv").unlink()
    assert_refused(copy, preprocessor, "ms3_meta_data.csv", "missing")


@pytest.mark.parametrize(
    "file",
    [f"visual_frames/{VIDEO}/{VIDEO}.mp4_3.png", f"gt_masks/train/{VIDEO}/{VIDEO}_2.png"],
)
def test_a_missing_or_corrupt_picture_is_refused_with_its_file_name(copy, preprocessor, file):
    path = copy / file
    path.write_bytes(path.read_bytes()[:60])
    assert_refused(copy, preprocessor, path.name, "cannot be read")
    path.unlink()
    assert_refused(copy, preprocessor, path.name, "missing")


def test_a_missing_frame_folder_or_a_frame_too_many_is_refused(copy, preprocessor):
    folder = copy / "visual_frames" / VIDEO
    shutil.copy(folder / f"{VIDEO}.mp4_1.png", folder / f"{VIDEO}.mp4_6.png")
    assert_refused(copy, preprocessor, str(folder), "6 frames, expected 5")
    shutil.rmtree(folder)
    assert_refused(copy, preprocessor, str(folder), "missing")


def test_a_mask_of_another_size_than_its_frame_is_refused(copy, preprocessor):
    path = copy / "gt_masks" / "train" / VIDEO / f"{VIDEO}_4.png"
    Image.new("L", (40, 48)).save(path)
    assert_refused(copy, preprocessor, path.name, "40x48", "48x48")


def test_a_video_without_sound_is_refused(copy, preprocessor):
    path = copy / "audio_wav" / "train" / f"{VIDEO}.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 7000))
    assert_refused(copy, preprocessor, path.name, "0.44 s of sound for 5 frames")
    path.unlink()
    assert_refused(copy, preprocessor, path.name, "without sound")


def test_a_corrupt_or_shortened_wav_is_refused_with_its_file_name(copy, preprocessor):
    path = copy / "audio_wav" / "train" / f"{VIDEO}.wav"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert_refused(copy, preprocessor, path.name, "truncated wav")
    path.write_bytes(b"RIFF of nothing at all" * 40)
    assert_refused(copy, preprocessor, path.name, "cannot be read as sound")


def test_augmented_items_depend_on_seed_epoch_and_index_alone(realav, preprocessor):
    augment = Augment(mix_prob=0.5)
    source = AVSBenchMS3(root=realav, split="train")
    first, second = (TrainingClips(source, preprocessor, augment=augment) for _ in range(2))
    second[3]
    for key in ("frames", "log_mel", "masks"):
        assert torch.equal(first[1][key], second[1][key])
    second.set_epoch(1)
    assert not torch.equal(first[1]["frames"], second[1]["frames"])
    assert not torch.equal(first[1]["log_mel"], second[1]["log_mel"])
