"""AVSBench S4 and AVSS in their published layouts, quirks included, and what is refused."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import AVSS_CLASSES, SIZE, write_avss, write_mask, write_s4, write_sound, write_table
from PIL import Image

from sdavs_model import PreprocessConfig
from sdavs_model.data.augment.config import Augment
from sdavs_model.data.benchmarks.palette import palette, read_classes
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.data.datasets import KINDS, known_kind, splits_of
from sdavs_model.data.tools.validate import validate
from sdavs_model.data.training_clips import open_training_clips


@pytest.fixture
def s4(tmp_path: Path) -> Path:
    return write_s4(tmp_path)


@pytest.fixture
def avss(tmp_path: Path) -> Path:
    return write_avss(tmp_path)


def open_s4(data: Path, preprocessor: Preprocessor, split: str = "train", **options: object):
    return open_training_clips("avsbench-s4", data.parent, split, preprocessor, **options)


def open_avss(root: Path, preprocessor: Preprocessor, split: str = "train", **options: object):
    return open_training_clips("avsbench-avss", root, split, preprocessor, **({"num_frames": 10} | options))


def test_s4_trains_on_the_first_frame_alone_and_tests_on_all_five(s4, preprocessor):
    train, test = open_s4(s4, preprocessor)[0], open_s4(s4, preprocessor, "test")[0]
    assert train["valid"].tolist() == [True, False, False, False, False]
    assert test["valid"].all()
    assert train["present"].all()
    assert train["masks"][0].float().mean() == 0.5
    assert not train["masks"][1:].any()
    assert (train["name"], train["category"]) == ("-5abc_x.y", "dog_barking")


def test_s4_windows_and_reversals_keep_the_one_mask_with_its_frame(s4, preprocessor):
    augment = Augment(window=2, reverse_prob=0.5, erase_prob=0, flip_prob=0, rotation=0, zoom=0, shift=0)
    clips = open_s4(s4, preprocessor, augment=augment)
    seen = set()
    for epoch in range(12):
        clips.set_epoch(epoch)
        item = clips[0]
        assert item["masks"].flatten(1).any(1).tolist() == item["valid"].tolist()
        seen.add(tuple(item["valid"].tolist()))
    assert seen == {(True, False), (False, True)}


def test_s4_reads_its_stored_log_mel_where_there_is_no_sound(s4):
    wav = s4 / "audio_wav" / "test" / "race_car" / "Zq0_11.wav"
    wav.unlink()
    stored = s4 / "audio_log_mel" / "test" / "race_car" / "Zq0_11.pkl"
    stored.parent.mkdir(parents=True)
    tensor = torch.randn(5, 1, 96, 64, requires_grad=True)
    stored.write_bytes(pickle.dumps(tensor))
    official = Preprocessor(PreprocessConfig(image_size=32, audio_window="official"))
    assert torch.equal(open_s4(s4, official, "test")[0]["log_mel"], tensor.detach())


def test_a_mask_too_many_a_missing_frame_and_missing_sound_are_refused(s4, preprocessor):
    masks = s4 / "gt_masks" / "train" / "dog_barking" / "-5abc_x.y"
    write_mask(masks / "-5abc_x.y_2.png")
    with pytest.raises(ValueError, match="2 masks, expected 1"):
        open_s4(s4, preprocessor)
    frame = s4 / "visual_frames" / "test" / "race_car" / "Zq0_11" / "Zq0_11_4.png"
    frame.unlink()
    with pytest.raises(ValueError, match=r"Zq0_11_4\.png: missing"):
        open_s4(s4, preprocessor, "test")


def test_avss_pads_short_clips_with_zeros_and_says_where(avss, preprocessor):
    single, multi, new = (open_avss(avss, preprocessor)[index] for index in range(3))
    assert single["valid"].tolist() == [True] + [False] * 9
    assert multi["valid"].tolist() == multi["present"].tolist() == [True] * 5 + [False] * 5
    assert new["valid"].all()
    for key in ("frames", "log_mel", "masks"):
        assert not multi[key][5:].any()
        assert len(new[key]) == 10
    assert new["masks"].unique().tolist() == [0, 3]
    test = open_avss(avss, preprocessor, "test")
    assert test[0]["valid"].tolist() == [True] * 5 + [False] * 5  # v1s is fully annotated outside training
    assert (test.source.classes, test.source.num_classes) == (AVSS_CLASSES, 5)


def test_avss_columns_are_found_by_position_and_categories_never_overlap_by_mistake(avss, preprocessor):
    assert open_avss(avss, preprocessor).categories == ["cat+dog", "bird", "dog"]
    rows = [(0, "c", "", "", "", "train", "v2"), (1, "e", "", "", "", "test", "v2")]
    write_table(avss / "metadata.csv", ("0", "1", "2", "3", "4", "5", "6"), rows)
    clips = open_avss(avss, preprocessor)
    assert [files.name for files in clips.source.files] == ["c"]
    assert clips.categories == [""]
    write_table(avss / "metadata.csv", ("split", "label"), [("train", "v2")])
    with pytest.raises(ValueError, match=r"metadata\.csv: needs (the columns|a header and a column) .*uid"):
        open_avss(avss, preprocessor)


def test_colour_masks_are_read_by_the_palette_and_unknown_colours_named(avss, preprocessor):
    assert palette(71)[[1, 2, 3, 4, 8, 28, 70]].tolist() == [
        *([128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [64, 0, 0], [64, 64, 128], [32, 128, 128])
    ]
    assert len(np.unique(palette(71), axis=0)) == 71
    before = open_avss(avss, preprocessor)[2]["masks"]
    folder = avss / "v2" / "c"
    for path in (folder / "labels_semantic").iterdir():
        colours = palette(5)[np.asarray(Image.open(path))]
        if path.stem == "4":
            colours[0, -1] = (1, 2, 3)
        target = folder / "labels_rgb" / path.name
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(colours).save(target)
        path.unlink()
    (folder / "labels_semantic").rmdir()
    with pytest.warns(
        UserWarning, match=r"labels_rgb/4\.png: 1 pixels of no class's colour, such as \(1, 2, 3\)"
    ):
        assert torch.equal(open_avss(avss, preprocessor)[2]["masks"], before)


def test_index_masks_beyond_the_classes_of_another_size_or_unreadable_are_refused(avss, preprocessor):
    path = avss / "v2" / "c" / "labels_semantic" / "3.png"
    for size, value, words in (
        (SIZE, 5, "values up to 5; allowed: class indices below 5"),
        ((8, 8), 1, "8x8"),
    ):
        write_mask(path, value, size)
        with pytest.raises(ValueError, match=re.escape(f"{path}: {words}")):
            open_avss(avss, preprocessor)[2]
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"3\.png: cannot be read"):
        open_avss(avss, preprocessor)[2]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_class_names_may_have_the_encodings_of_windows(tmp_path, encoding):
    (tmp_path / "label2idx.json").write_bytes('{"background": 0, "Flöte": 1}'.encode(encoding))
    assert read_classes(tmp_path / "label2idx.json") == ("background", "Flöte")


def test_a_wrong_label_short_clips_and_class_lists_with_gaps_are_refused(avss, preprocessor):
    with pytest.raises(ValueError, match=r"num_frames: 5, but .*/v2/c has 10; allowed: from 10"):
        open_avss(avss, preprocessor, num_frames=5)
    (avss / "v1m" / "b" / "frames" / "2.jpg").unlink()
    with pytest.raises(ValueError, match=r"v1m/b/frames/2\.jpg: missing"):
        open_avss(avss, preprocessor)
    write_table(avss / "metadata.csv", ("uid", "split", "label"), [("c", "train", "v3")])
    with pytest.raises(ValueError, match="label 'v3' of c; allowed: v1s, v1m, v2"):
        open_avss(avss, preprocessor)
    for content, words in (
        ({"background": 1, "cat": 3}, "gaps"),
        ({"cat": 0, "dog": 1}, "first class is 'cat'"),
    ):
        (avss / "label2idx.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=words):
            open_avss(avss, preprocessor)


@pytest.mark.parametrize("kind", [(8_000, 1, 1), (44_100, 2, 3), (48_000, 2, 2), (16_000, 1, 4)])
def test_wavs_of_every_rate_width_and_number_of_channels_are_heard(avss, preprocessor, kind):
    rate, channels, width = kind
    write_sound(avss / "v2" / "c" / "audio.wav", 10, rate=rate, channels=channels, width=width)
    log_mel = open_avss(avss, preprocessor)[2]["log_mel"]
    assert log_mel.shape == (10, 1, 96, 64)
    assert log_mel.isfinite().all()


def test_shorter_sound_is_continued_as_each_sets_own_scripts_do(avss, preprocessor, tmp_path):
    write_sound(avss / "v2" / "c" / "audio.wav", 6.2)
    with pytest.warns(UserWarning, match="are continued with silence"):
        log_mel = open_avss(avss, preprocessor)[2]["log_mel"]
    assert not torch.equal(log_mel[5], preprocessor.silence())
    assert all(torch.equal(example, preprocessor.silence()) for example in log_mel[7:])
    data = write_s4(tmp_path / "s4")
    wav = data / "audio_wav" / "train" / "dog_barking" / "-5abc_x.y.wav"
    write_sound(wav, 3.2)
    with pytest.warns(UserWarning, match="are continued with their last second"):
        log_mel = open_s4(data, preprocessor)[0]["log_mel"]
    assert not torch.equal(log_mel[1], log_mel[2])
    assert torch.equal(log_mel[3], log_mel[2])
    assert torch.equal(log_mel[4], log_mel[2])
    report = validate(tmp_path / "s4")
    assert report.defects == ()
    assert report.notes == (f"{wav}: 3 s of sound for 5 frames; its last second is repeated",)


def test_the_kind_is_recognised_from_the_folder_and_an_unclear_folder_is_refused(s4, tmp_path, preprocessor):
    assert known_kind("auto", tmp_path) == known_kind("auto", tmp_path / "Single-source") == "avsbench-s4"
    assert splits_of("auto", tmp_path) == ("train", "test")
    write_avss(tmp_path)
    with pytest.raises(ValueError, match=r"set data\.kind to one of avsbench-s4, avsbench-avss"):
        known_kind("auto", tmp_path)
    with pytest.raises(
        ValueError, match=r"data\.kind: 'avsbench' is not allowed; allowed: auto, avsbench-s4"
    ):
        known_kind("avsbench", tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=f"holds none of {', '.join(KINDS)}"):
        known_kind("auto", empty)


def test_the_digest_sees_pictures_sounds_and_class_names(avss, preprocessor):
    digests = {open_avss(avss, preprocessor, split).source.digest for split in ("train", "test")}
    write_sound(avss / "v2" / "c" / "audio.wav", 11)
    digests.add(open_avss(avss, preprocessor).source.digest)
    names = json.loads((avss / "label2idx.json").read_text())
    (avss / "label2idx.json").write_text(json.dumps(names | {"woman": 6}))
    digests.add(open_avss(avss, preprocessor).source.digest)
    assert len(digests) == 4
