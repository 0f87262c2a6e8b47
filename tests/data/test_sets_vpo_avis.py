"""VPO and AVIS in their published layouts, and what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import SIZE, write_avis, write_mask, write_picture, write_table, write_vpo
from PIL import Image
from sdavs_platform.evaluation.registered_model import controls_of
from torch.utils.data import DataLoader

from sdavs_model.data.benchmarks.avis import AVIS, read_ground_truth
from sdavs_model.data.benchmarks.vpo import CLASSES, VPO
from sdavs_model.data.core.audio import read_audio
from sdavs_model.data.datasets import known_kind, open_dataset
from sdavs_model.data.training_clips import collate_clips, open_training_clips
from sdavs_model.metrics import open_metrics
from sdavs_model.training_step import evaluate


@pytest.fixture
def vpo(tmp_path: Path) -> Path:
    write_vpo(tmp_path)
    return tmp_path


@pytest.fixture
def avis(tmp_path: Path) -> Path:
    write_avis(tmp_path)
    return tmp_path


def test_vpo_ss_shows_one_picture_for_three_seconds_and_keeps_its_mask_at_full_size(vpo, preprocessor):
    clips = open_training_clips("vpo-ss", vpo, "test", preprocessor, num_frames=3)
    assert clips.source.splits == ("train", "test")  # "val" in the csv
    item = clips[0]
    assert item["frames"].shape == (3, 3, 32, 32)
    assert item["full_masks"].shape == (3, *SIZE[::-1])
    assert item["full_masks"].unique().tolist() == [0, CLASSES.index("cat")]
    assert (item["category"], clips.source.num_classes) == ("cat", 22)
    assert (
        "full_masks"
        not in open_training_clips("vpo-ss", vpo, "train", preprocessor, num_frames=3, training=True)[0]
    )


def test_vpo_mixes_sources_in_stereo_by_their_places_and_the_model_hears_their_sum(vpo, preprocessor):
    clips = open_dataset("vpo-ms", vpo, "train", num_frames=3)
    assert isinstance(clips, VPO)
    assert len(clips) == 1
    assert clips.categories == ["cat+dog"]
    sounds = vpo / "vggsound_bench" / "VGGSound" / "audios"
    dog = read_audio(sounds / "dog.wav")  # 10 s: the middle three
    dog = dog[len(dog) // 2 - 24_000 : len(dog) // 2 + 24_000]
    cat = np.tile(read_audio(sounds / "cat.wav"), 4)[:48_000]  # 1 s: repeated
    left, right = clips.stereo(0)
    np.testing.assert_allclose(left, 0.75 * dog, atol=1e-6)
    np.testing.assert_allclose(right, 0.25 * dog + cat, atol=1e-6)
    np.testing.assert_allclose(clips.clip(0).waveform, dog + cat, atol=1e-6)
    with pytest.raises(ValueError, match="num_frames: 5; VPO has 3 s of sound, allowed: 1 to 3"):
        open_dataset("vpo-ms", vpo, "train", num_frames=5)


def test_vpo_msmi_finds_rows_of_one_instance_in_vpo_ms_and_leaves_255_out(vpo, preprocessor):
    options = {"preprocessor": preprocessor, "num_frames": 1}
    train = open_training_clips("vpo-msmi", vpo, "train", **options)[0]
    assert train["full_masks"].unique().tolist() == [0, 255]
    test = open_training_clips("vpo-msmi", vpo, "test", **options)
    assert "VPO-MS/data" in str(test.source.files[0].frames[0])
    with pytest.raises(ValueError, match=r"set data\.kind to one of vpo-ss, vpo-ms, vpo-msmi"):
        known_kind("auto", vpo)


def test_vpo_masks_of_two_sizes_make_a_batch(vpo, preprocessor):
    folder = vpo / "VPO" / "VPO-SS"
    write_picture(folder / "data" / "cat" / f"{12:012d}.jpg", 12, (8, 6))
    write_mask(folder / "mask" / "cat" / f"{12:012d}_{1:012d}.png", 17, (8, 6))
    with (folder / "vpo_ss_data_stereo.csv").open("a") as file:
        file.write("cat,17,12,1,cat,val,0.5\n")
    clips = open_training_clips("vpo-ss", vpo, "test", preprocessor, num_frames=2)
    batch = collate_clips([clips[0], clips[1]])
    assert batch["masks"].shape == (2, 2, 32, 32)
    assert [tuple(mask.shape) for mask in batch["full_masks"]] == [(2, 16, 24), (2, 6, 8)]


def test_vpo_refuses_unknown_mask_values_places_off_the_scale_and_missing_files(vpo, preprocessor):
    options = {"preprocessor": preprocessor, "num_frames": 3}
    mask = vpo / "VPO" / "VPO-SS" / "mask" / "cat" / f"{8:012d}_{80:012d}.png"
    write_mask(mask, 1)
    with pytest.raises(ValueError, match=re.escape(f"{mask}: unknown values [1]")):
        open_training_clips("vpo-ss", vpo, "test", **options)[0]
    table = vpo / "VPO" / "VPO-SS" / "vpo_ss_data_stereo.csv"
    header = ("cateName", "img_Id", "ann_Ids", "vgg_file", "split", "audio_pos")
    write_table(table, header, [("cat", 8, 80, "cat", "val", 1.5)])
    with pytest.raises(
        ValueError, match=r"vpo_ss_data_stereo\.csv: audio_pos '1\.5' of cat\.wav; allowed: 0 to 1"
    ):
        open_training_clips("vpo-ss", vpo, "test", **options)
    write_table(table, header, [("cat", 8, 80, "silent", "val", 1)])
    with pytest.raises(ValueError, match=r"silent\.wav: missing"):
        open_training_clips("vpo-ss", vpo, "test", **options)


def test_avis_videos_become_clips_that_follow_each_other_the_last_one_padded(avis, preprocessor):
    clips = open_training_clips("auto", avis, "test", preprocessor, num_frames=5)
    assert isinstance(clips.source, AVIS)
    assert clips.source.classes == ("background", "person", "violin", "lion")
    assert clips.categories == ["person+violin", "violin"]
    first, last = clips[0], clips[1]
    assert (first["video"], first["first_frame"], last["first_frame"]) == ("clip 1", 0, 5)
    assert last["present"].tolist() == last["valid"].tolist() == [True, True, False, False, False]
    assert [mask.unique().tolist() for mask in first["masks"]] == [[0, 2], [0, 2], [1, 2], [1, 2], [0, 2]]
    whole = read_audio(avis / "test" / "WAVAudios" / "clip 1.wav")
    np.testing.assert_array_equal(clips.source.clip(1).waveform, whole[5 * 16_000 :])


def test_avis_reads_polygons_and_run_lengths_and_refuses_what_does_not_fit(avis, preprocessor):
    _, truth = read_ground_truth(avis / "test.json")
    assert [sum(mask is not None for mask in track.masks) for track in truth["clip 1"].tracks] == [7, 2]
    frame = avis / "test" / "JPEGImages" / "clip 1" / "00001.jpg"
    Image.new("RGB", (8, 8)).save(frame)
    with pytest.raises(ValueError, match=r"00001\.jpg: 8x8, but test\.json says 40x30"):
        open_dataset("avis", avis, "test").clip(0, slice(1, 2))
    frame.unlink()
    with pytest.raises(ValueError, match=r"00001\.jpg: missing"):
        open_dataset("avis", avis, "test")
    content = json.loads((avis / "test.json").read_text())
    content["annotations"][0]["segmentations"].pop()
    (avis / "test.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"test\.json: .* annotation 1 does not fit"):
        open_dataset("avis", avis, "test")
    (avis / "test.json").write_text("{}")
    with pytest.raises(ValueError, match=r"test\.json: not a readable AVIS annotation file"):
        open_dataset("avis", avis, "test")


def test_a_split_too_small_to_swap_sounds_in_is_scored_without_that_row_and_says_so(
    avis, preprocessor, caplog
):
    clips = open_training_clips("avis", avis, "test", preprocessor, num_frames=5)
    assert controls_of(clips) == ["right", "muted"]
    assert caplog.messages == [
        "test: swapped audio: clip 0 shares a category with every other clip; the row for swapped audio is left out"
    ]


class AnswersOneClass(torch.nn.Module):
    """Every pixel is of one class, whatever is seen and heard."""

    def __init__(self, num_classes: int, category: int) -> None:
        super().__init__()
        self.logits = torch.eye(num_classes)[category] * 9

    def forward(
        self, frames: torch.Tensor, log_mel: torch.Tensor, present: torch.Tensor | None = None
    ) -> torch.Tensor:
        B, T, _, H, W = frames.shape
        return self.logits[:, None, None].expand(B, T, -1, H, W)


def test_vpo_and_avis_are_scored_from_batches_of_their_clips_by_their_own_protocol(
    vpo, preprocessor, tmp_path
):
    cat = CLASSES.index("cat")
    clips = open_training_clips("vpo-ss", vpo, "test", preprocessor, num_frames=3)
    batches = DataLoader(clips, batch_size=2, collate_fn=collate_clips)
    metrics = evaluate(AnswersOneClass(22, cat), batches, device="cpu", metrics=open_metrics(clips.source))
    # Half of the picture is a cat: IoU 1/2 of one class, 0 of the background, and 20 classes that never occur.
    assert metrics.compute() == pytest.approx(
        {"miou": round(0.5 / 22, 4), "fscore": round(1.3 * 0.5 / (0.3 * 0.5 + 1) / 2, 4), "fdr": 0.5},
        abs=1e-4,
    )

    write_avis(tmp_path)
    clips = open_training_clips("avis", tmp_path, "test", preprocessor, num_frames=5)
    batches = DataLoader(clips, batch_size=2, collate_fn=collate_clips)
    metrics = evaluate(
        AnswersOneClass(4, 2), batches, device="cpu", metrics=open_metrics(clips.source, mode="corrected")
    )
    scores = metrics.compute()
    # The violin fills half of the picture: right at the thresholds below 0.5 in the five frames where it is alone.
    assert scores["fsla"] == pytest.approx(9 / 19 * 5 / 7, abs=1e-6)
    assert scores["fsla_multi"] == 0
    assert scores["map"] == pytest.approx(0.1 / 2, abs=1e-6)  # found at IoU 0.5 alone, one of two categories
