"""RealAV's subsets: which benchmark each mirrors, whose layout it is written in, and what its scenes are like."""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sdavs_model.data.benchmarks import avsbench_object as avsbench
from sdavs_model.data.benchmarks import avsbench_semantic as semantic
from sdavs_model.data.benchmarks.palette import palette
from sdavs_model.data.core.audio import write_wav
from sdavs_model.data.core.clip import Clip
from sdavs_model.data.core.images import write_objects
from sdavs_model.data.realav.asset_library import Pool
from sdavs_model.data.realav.scenes import (
    Scene,
    draw_multi_scene,
    draw_offscreen_scene,
    draw_scene,
    draw_single_scene,
)
from sdavs_model.data.realav.stable_random import StableRandom
from sdavs_model.files import write_atomically, write_table

TRAIN = "train"

Scenes = Callable[[StableRandom, Pool, int], Scene]
"""Draws the visible and audible objects of a clip of this many seconds."""

AVSS_PARTS = ("v2", "v1s", "v2", "v1m")
"""Every second clip is of ten frames, as more than half of AVSBench-semantic are."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is known of a clip before it is composed."""

    split: str
    name: str
    group: str
    """The folder that its files share with others: a category (S4), a part (AVSS), "" (MS3)."""
    num_frames: int
    scenes: Scenes


@dataclass(frozen=True, kw_only=True)
class Files:
    """Where the files of one clip are."""

    frames: tuple[Path, ...]
    masks: tuple[Path, ...]
    """May be fewer than the frames."""
    colours: tuple[Path, ...] = ()
    """The same masks in the palette's colours, where the benchmark has both."""
    objects: Path
    """All visible objects; see `write_objects`."""
    wav: Path
    record: Path
    """Written last: a clip that has it is complete."""


class Layout:
    """MS3's layout, which also holds the subsets that mirror no benchmark.

    Args:
        folder: the layout's own folder below the data set's.
        scenes: what its clips are like.
    """

    def __init__(self, *, folder: str, scenes: Scenes) -> None:
        self.folder = folder
        self.scenes = scenes

    def plan(self, split: str, index: int, num_frames: int, categories: Sequence[str]) -> Plan:
        """Clip `index` of a split. `categories` are those that may sound in it."""
        return Plan(
            split=split, name=f"{split}_{index:05d}", group="", num_frames=num_frames, scenes=self.scenes
        )

    def files(self, root: Path, plan: Plan) -> Files:
        """Its files below `root`, the layout's own folder."""
        data, name = root / avsbench.MS3_DATA, plan.name
        numbers = range(1, plan.num_frames + 1)
        return Files(
            frames=tuple(data / "visual_frames" / name / f"{name}.mp4_{n}.png" for n in numbers),
            masks=tuple(data / "gt_masks" / plan.split / name / f"{name}_{n}.png" for n in numbers),
            objects=data / avsbench.OBJECTS_FOLDER / plan.split / f"{name}.png",
            wav=data / "audio_wav" / plan.split / f"{name}.wav",
            record=data / "sources" / plan.split / f"{name}.json",
        )

    def classes(self, categories: Sequence[str]) -> dict[str, int] | None:
        """The mask's value for each category; None for masks that only separate sounding objects from the rest."""
        return None

    def write_tables(self, root: Path, plans: Sequence[Plan], categories: Sequence[str]) -> None:
        """The files without which a loader refuses the folder; written when all clips are there."""
        rows = [(plan.name, plan.split) for plan in plans]
        write_table(root / avsbench.MS3_TABLE, [("video_id", "split"), *rows])


class S4Layout(Layout):
    """S4's layout: one folder per category; in the split "train" only the first frame has a mask."""

    def plan(self, split: str, index: int, num_frames: int, categories: Sequence[str]) -> Plan:
        category = categories[index % len(categories)]
        return Plan(
            split=split,
            name=f"{split}_{index:05d}",
            group=category,
            num_frames=num_frames,
            scenes=functools.partial(draw_single_scene, category=category),
        )

    def files(self, root: Path, plan: Plan) -> Files:
        data, name = root / avsbench.S4_DATA, plan.name
        inner = Path(plan.split) / plan.group
        num_masks = 1 if plan.split == TRAIN else plan.num_frames
        return Files(
            frames=tuple(
                data / "visual_frames" / inner / name / f"{name}_{n + 1}.png" for n in range(plan.num_frames)
            ),
            masks=tuple(data / "gt_masks" / inner / name / f"{name}_{n + 1}.png" for n in range(num_masks)),
            objects=data / avsbench.OBJECTS_FOLDER / inner / f"{name}.png",
            wav=data / "audio_wav" / inner / f"{name}.wav",
            record=data / "sources" / inner / f"{name}.json",
        )

    def write_tables(self, root: Path, plans: Sequence[Plan], categories: Sequence[str]) -> None:
        rows = [(plan.name, "0", plan.group, plan.split) for plan in plans]
        write_table(root / avsbench.S4_TABLE, [("video_name", "start_time", "category", "split"), *rows])


class AVSSLayout(Layout):
    """AVSBench-semantic's: parts of five and ten frames, masks as indices and as colours, own classes."""

    def plan(self, split: str, index: int, num_frames: int, categories: Sequence[str]) -> Plan:
        part = AVSS_PARTS[index % len(AVSS_PARTS)]
        single = functools.partial(draw_single_scene, category=categories[index // 4 % len(categories)])
        scenes: dict[str, Scenes] = {"v1s": single, "v1m": draw_multi_scene, "v2": draw_scene}
        return Plan(
            split=split,
            name=f"{split}_{index:05d}",
            group=part,
            num_frames=semantic.AVSS_NUM_FRAMES[part],
            scenes=scenes[part],
        )

    def files(self, root: Path, plan: Plan) -> Files:
        folder = root / plan.group / plan.name
        num_masks = 1 if plan.split == TRAIN and plan.group == "v1s" else plan.num_frames
        return Files(
            frames=tuple(folder / "frames" / f"{n}.jpg" for n in range(plan.num_frames)),
            masks=tuple(folder / "labels_semantic" / f"{n}.png" for n in range(num_masks)),
            colours=tuple(folder / "labels_rgb" / f"{n}.png" for n in range(num_masks)),
            objects=folder / semantic.OBJECTS_FILE,
            wav=folder / "audio.wav",
            record=folder / "sources.json",
        )

    def classes(self, categories: Sequence[str]) -> dict[str, int]:
        return {category: index for index, category in enumerate(categories, 1)}

    def write_tables(self, root: Path, plans: Sequence[Plan], categories: Sequence[str]) -> None:
        # From 1 on, as in the published file.
        indices = {name: index for index, name in enumerate(["background", *categories], 1)}
        write_atomically(root / semantic.AVSS_CLASSES, json.dumps(indices, indent=2))
        rows = []
        for plan in plans:
            heard = json.loads(self.files(root, plan).record.read_text())["heard"]
            rows.append((plan.name, plan.name, "0", "0", "+".join(heard), plan.split, plan.group))
        header = ("vid", "uid", "s_min", "s_sec", "a_obj", "split", "label")
        write_table(root / semantic.AVSS_TABLE, [header, *rows])


LAYOUTS: dict[str, Layout] = {
    "mixed": Layout(folder=avsbench.MS3_FOLDER, scenes=draw_scene),
    "s4": S4Layout(folder=avsbench.S4_FOLDER, scenes=draw_scene),
    "ms3": Layout(folder=avsbench.MS3_FOLDER, scenes=draw_multi_scene),
    "avss": AVSSLayout(folder=semantic.AVSS_FOLDER, scenes=draw_scene),
    "offscreen": Layout(folder=avsbench.MS3_FOLDER, scenes=draw_offscreen_scene),
}
"""The subsets; "mixed" is the demo's."""

SUBSETS = tuple(LAYOUTS)

LAYOUT_VERSION = 3
"""Goes up with every change to which files a clip has, so that prepared data sets are written again. 2: with all
visible objects. 3: with their categories."""


def write_clip(files: Files, clip: Clip, scene: Scene) -> None:
    """Write a composed clip; its record last."""
    assert clip.masks is not None
    assert clip.objects is not None
    for path in (*files.frames, *files.masks, *files.colours, files.objects, files.wav, files.record):
        path.parent.mkdir(parents=True, exist_ok=True)
    for path, frame in zip(files.frames, clip.frames, strict=True):
        # Light compression: a quarter more bytes, and written and read several times as fast.
        Image.fromarray(frame).save(path, compress_level=1, quality=95)
    indices = bool(files.colours)
    for path, mask in zip(files.masks, clip.masks, strict=False):
        Image.fromarray(mask if indices else mask * np.uint8(255)).save(path, compress_level=1)
    for path, mask in zip(files.colours, clip.masks, strict=False):
        Image.fromarray(palette(256)[mask]).save(path, compress_level=1)
    write_objects(files.objects, clip.objects)
    write_wav(files.wav, np.round(clip.waveform * 32768).astype(np.int16))
    write_atomically(files.record, json.dumps(scene.record()))
