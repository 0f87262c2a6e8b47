"""Tiny data sets in the published layouts of AVSBench, VPO and AVIS, written from their descriptions."""

import csv
import json
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (24, 16)  # width, height: no square, no multiple of anything
AVSS_CLASSES = ("background", "accordion", "bird", "cat", "dog")
AVIS_SIZE = (40, 30)


def write_picture(path: Path, seed: int, size: tuple[int, int] = SIZE) -> None:
    """A picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)).save(path)


def write_mask(path: Path, value: int = 255, size: tuple[int, int] = SIZE) -> None:
    """A grey mask whose left half holds `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size[::-1], np.uint8)
    mask[:, : size[0] // 2] = value
    Image.fromarray(mask).save(path)


def write_sound(path: Path, seconds: float, *, rate: int = 16_000, channels: int = 1, width: int = 2) -> None:
    """A PCM wav of noise; `width` in bytes (1 is 8 bit, 3 is 24 bit)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(int(seconds))
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(rng.integers(0, 256, int(seconds * rate) * channels * width, np.uint8).tobytes())


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A csv."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def write_s4(root: Path) -> Path:
    """Single-source: one training video with one mask, two test videos with five; returns s4_data."""
    data = root / "Single-source" / "s4_data"
    rows = [
        ("-5abc_x.y", 0, "dog_barking", "train"),
        ("Zq0_11", 1, "race_car", "test"),
        ("d_2", 3, "dog_barking", "test"),
    ]
    for seed, (name, _, category, split) in enumerate(rows):
        inner = Path(split) / category
        for number in range(1, 6):
            write_picture(data / "visual_frames" / inner / name / f"{name}_{number}.png", 10 * seed + number)
            if split == "test" or number == 1:
                write_mask(data / "gt_masks" / inner / name / f"{name}_{number}.png")
        write_sound(data / "audio_wav" / inner / f"{name}.wav", 5)
    write_table(root / "Single-source" / "s4_meta_data.csv", ("name", "start", "category", "split"), rows)
    return data


def write_ms3(root: Path) -> None:
    """Multi-sources: one training and two test videos; masks in a palette, in black and white, and an empty one."""
    data = root / "Multi-sources" / "ms3_data"
    rows = [("_a1", "train"), ("b", "test"), ("c", "test")]
    for seed, (name, split) in enumerate(rows):
        for number in range(1, 6):
            write_picture(data / "visual_frames" / name / f"{name}.mp4_{number}.png", 10 * seed + number)
            write_mask(data / "gt_masks" / split / name / f"{name}_{number}.png", 0 if number == 2 else 255)
        first = data / "gt_masks" / split / name / f"{name}_1.png"
        Image.open(first).convert("P").save(first)
        write_sound(data / "audio_wav" / split / f"{name}.wav", 5)
    write_table(root / "Multi-sources" / "ms3_meta_data.csv", ("video_id", "split"), rows)


def write_avss(root: Path) -> Path:
    """AVSBench_semantic: v1s, v1m and v2 for training, a v1s and a v2 for testing; returns the folder."""
    top = root / "AVSBench_semantic"
    clips = [
        ("a_1", "v1s", "train"),
        ("b", "v1m", "train"),
        ("c", "v2", "train"),
        ("d", "v1s", "test"),
        ("e", "v2", "test"),
    ]
    rows = []
    for seed, (uid, label, split) in enumerate(clips):
        folder = top / label / uid
        num_frames = 10 if label == "v2" else 5
        for number in range(num_frames):
            write_picture(folder / "frames" / f"{number}.jpg", 100 * seed + number)
            if not (label == "v1s" and split == "train" and number):
                write_mask(folder / "labels_semantic" / f"{number}.png", 1 + seed % 4)
        write_sound(folder / "audio.wav", num_frames)
        rows.append((seed, uid, "x", 0, ("dog_cat", "bird", "dog", "accordion", "cat")[seed], split, label))
    write_table(top / "metadata.csv", ("vid", "uid", "s_min", "s_sec", "a_obj", "split", "label"), rows)
    (top / "label2idx.json").write_text(json.dumps({name: i for i, name in enumerate(AVSS_CLASSES, 1)}))
    return top


def write_vpo(root: Path) -> None:
    """VPO-SS, VPO-MS and VPO-MSMI: a training and a test picture each, recordings of odd kinds."""
    sounds = root / "vggsound_bench" / "VGGSound" / "audios"
    write_sound(sounds / "dog.wav", 10, rate=48_000, channels=2)
    write_sound(sounds / "cat.wav", 1)
    header = ["cateName", "cateId", "img_Id", "ann_Ids", "vgg_file", "split", "audio_pos"]
    dog, cat = ("dog", 18), ("cat", 17)
    folder = root / "VPO" / "VPO-SS"
    rows = [(*dog, 7, 70, "dog", "train", 0.25), (*cat, 8, 80, "cat", "val", 1)]
    for name, value, image, annotation, *_ in rows:
        write_picture(folder / "data" / str(name) / f"{image:012d}.jpg", int(image))
        write_mask(folder / "mask" / str(name) / f"{image:012d}_{annotation:012d}.png", int(value))
    write_table(folder / "vpo_ss_data_stereo.csv", header, rows)

    folder = root / "VPO" / "VPO-MS"
    rows = [
        (*dog, 9, 90, "dog", "train", 0.25),
        (*cat, 9, 90, "cat", "train", 1),
        (*cat, 10, 100, "cat", "val", 0),
    ]
    for image, annotation, value in ((9, 90, 18), (10, 100, 17)):
        write_picture(folder / "data" / f"{image:012d}.jpg", image)
        write_mask(folder / "mask" / f"{image:012d}_{annotation:012d}.png", value)
    write_table(folder / "vpo_ms_data_stereo.csv", header, rows)

    folder = root / "VPO" / "VPO-MSMI"
    write_picture(folder / "data" / f"{11:012d}.jpg", 11)
    write_mask(folder / "mask" / f"{11:012d}_{110:012d}.png", 255)
    rows = [
        (*dog, 11, 110, "dog", "train", 0, 1),
        (*dog, 11, 110, "cat", "train", 1, 1),
        (*cat, 10, 100, "cat", "val", 0, 0),
    ]
    write_table(folder / "vpo_msmi_data_stereo.csv", [*header, "multi_instance"], rows)


def write_avis(root: Path) -> None:
    """AVIS: one video of seven seconds, the same in both splits; a violin throughout, a person in between."""
    width, height = AVIS_SIZE
    left = [[0, 0, 20, 0, 20, 30, 0, 30]]  # a polygon
    right = {"size": [height, width], "counts": [height * 20, height * 20]}  # run lengths without compression
    for split in ("train", "test"):
        files = [f"clip 1/{number:05d}.jpg" for number in range(7)]
        for number, file in enumerate(files):
            write_picture(root / split / "JPEGImages" / file, number, AVIS_SIZE)
        write_sound(root / split / "WAVAudios" / "clip 1.wav", 7)
        common = {"video_id": 5, "iscrowd": 0, "height": height, "width": width, "bboxes": [], "areas": []}
        content = {
            "videos": [{"id": 5, "width": width, "height": height, "length": 7, "file_names": files}],
            "annotations": [
                common | {"id": 1, "category_id": 2, "segmentations": [left] * 7},
                common
                | {"id": 2, "category_id": 1, "segmentations": [None, None, right, right, None, None, None]},
            ],
            "categories": [
                {"id": 1, "name": "person"},
                {"id": 2, "name": "violin"},
                {"id": 3, "name": "lion"},
            ],
        }
        (root / f"{split}.json").write_text(json.dumps(content))
