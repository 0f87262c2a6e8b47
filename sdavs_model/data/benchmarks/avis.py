"""AVIS (AVISeg): videos of about a minute with instance tracks of what sounds, 26 categories."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdavs_model.data.benchmarks.layout_files import require_files
from sdavs_model.data.core.audio import num_seconds_of
from sdavs_model.data.core.clip import SAMPLE_RATE, ClipFiles
from sdavs_model.data.core.clip_set import ClipSet
from sdavs_model.data.core.images import size_text
from sdavs_model.files import read_text

Run = dict[str, Any]
"""A mask as pycocotools has it: {"size": [H, W], "counts": bytes}."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """One instance through one video."""

    category: int
    """Class index; 0 is the background and never occurs."""
    masks: tuple[Run | None, ...]
    """One a frame; None where it does not sound."""
    score: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TrackedVideo:
    """One video of the ground truth."""

    name: str
    height: int
    width: int
    files: tuple[str, ...]
    """Frames, relative to JPEGImages."""
    tracks: tuple[Track, ...]


class AVIS(ClipSet):
    """AVISeg, one split of it, as clips of `num_frames` seconds that follow each other; see `ClipSet`.

    A video's last clip is padded (`present`). A mask holds category indices of everything that sounds; the
    protocol takes instances, so it reads them from `ground_truth` and the clip's place from the item: `video` (str) and
    `first_frame` (int).

    Args:
        root: the folder with `train.json`, `test.json` and the folders `train/`, `test/`, each with
            `JPEGImages/<video>/*.jpg` and `WAVAudios/<video>.wav`.
        split: "train" or "test".
        num_frames: seconds of a clip.
    """

    kind = "avis"
    protocol = "avis"
    per_clip = ("files", "_places")

    @classmethod
    def list_splits(cls, root: Path) -> tuple[str, ...]:
        splits = tuple(split for split in ("train", "val", "test") if (root / f"{split}.json").is_file())
        if not splits:
            raise ValueError(f"{root / 'train.json'}: missing; AVIS has train.json and test.json")
        return splits

    def place(self, index: int) -> dict[str, Any]:
        name, first = self._places[index]
        return {"video": name, "first_frame": first}

    def waveform(self, index: int) -> np.ndarray:
        name, first = self._places[index]
        path = self.files[index].wav
        whole = self._whole_seconds(path, len(self.ground_truth[name].files))
        return whole[first * SAMPLE_RATE : (first + len(self.files[index].frames)) * SAMPLE_RATE]

    def num_seconds_heard(self, index: int) -> tuple[int, int]:
        name, _ = self._places[index]
        return num_seconds_of(self.read_sound(self.files[index].wav)), len(self.ground_truth[name].files)

    def read_masks(self, files: ClipFiles, seconds: slice, frames: np.ndarray) -> np.ndarray:
        name, start = files.name.rsplit(":", 1)
        video = self.ground_truth[name]
        chosen = range(int(start), int(start) + len(files.frames))[seconds]
        for path, frame in zip(files.frames[seconds], frames, strict=True):
            if frame.shape[:2] != (video.height, video.width):
                expected = f"{video.width}x{video.height}"
                raise ValueError(f"{path}: {size_text(frame)}, but {self.tables[0].name} says {expected}")
        return np.stack([class_mask(video, frame) for frame in chosen])

    def _open(self, root: Path) -> list[ClipFiles]:
        self.root = root
        self.tables = (root / f"{self.split}.json",)
        self.classes, self.ground_truth = read_ground_truth(self.tables[0])
        folder = root / self.split
        self._places = [
            (name, first)
            for name, video in self.ground_truth.items()
            for first in range(0, len(video.files), self.num_frames)
        ]
        return [self._find(folder, self.ground_truth[name], first) for name, first in self._places]

    def _find(self, folder: Path, video: TrackedVideo, first: int) -> ClipFiles:
        last = min(first + self.num_frames, len(video.files))
        frames = tuple(folder / "JPEGImages" / file for file in video.files[first:last])
        wav = folder / "WAVAudios" / f"{video.name}.wav"
        heard = {t.category for t in video.tracks if any(mask is not None for mask in t.masks[first:last])}
        files = ClipFiles(
            name=f"{video.name}:{first}",
            frames=frames,
            # Masks are in the JSON; every frame is annotated, an empty one says that nothing visible sounds.
            masks=(self.tables[0],) * len(frames),
            wav=wav,
            category="+".join(sorted(self.classes[category] for category in heard)),
        ).as_on_disk()
        require_files([*files.frames, files.wav], f"a file of video {video.name!r}")
        return files


def read_ground_truth(path: Path) -> tuple[tuple[str, ...], dict[str, TrackedVideo]]:
    """Class names (background first) and the videos of an AVIS JSON (YouTube-VIS format), by name.

    Raises:
        ValueError: missing, no JSON of this format, or tracks that do not fit their video; names file and video.
    """
    try:
        content = json.loads(read_text(path))
        categories = sorted(content["categories"], key=lambda c: c["id"])
        indices = {category["id"]: index for index, category in enumerate(categories, 1)}
        tracks: dict[int, list[Track]] = {video["id"]: [] for video in content["videos"]}
        sizes = {
            video["id"]: (video["height"], video["width"], video["length"]) for video in content["videos"]
        }
        for annotation in content["annotations"]:
            height, width, length = sizes[annotation["video_id"]]
            runs = tuple(run_length(s, height, width) if s else None for s in annotation["segmentations"])
            if len(runs) != length or any(run and run["size"] != [height, width] for run in runs):
                raise ValueError(f"annotation {annotation['id']} does not fit its video's length or size")
            tracks[annotation["video_id"]].append(
                Track(category=indices[annotation["category_id"]], masks=runs)
            )
        videos = {
            (name := Path(video["file_names"][0]).parent.as_posix()): TrackedVideo(
                name=name,
                height=video["height"],
                width=video["width"],
                files=tuple(video["file_names"][: video["length"]]),
                tracks=tuple(tracks[video["id"]]),
            )
            for video in sorted(content["videos"], key=lambda v: v["id"])
        }
    except (OSError, KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(
            f"{path}: not a readable AVIS annotation file ({type(error).__name__}: {error})"
        ) from error
    return ("background", *(category["name"] for category in categories)), videos


def run_length(segmentation: Any, height: int, width: int) -> Run:
    """A mask of the JSON (polygons, or run lengths with or without compression) as pycocotools' run lengths."""
    # Imported here: only AVIS needs it.
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, Sequence):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    counts = segmentation["counts"]
    return {
        "size": list(segmentation["size"]),
        "counts": counts.encode() if isinstance(counts, str) else counts,
    }


def class_mask(video: TrackedVideo, frame: int) -> np.ndarray:
    """[H, W] uint8 class indices of one frame; where instances overlap the smaller one is kept visible."""
    from pycocotools import mask as coco_mask

    present = [
        (track.category, track.masks[frame]) for track in video.tracks if track.masks[frame] is not None
    ]
    present.sort(key=lambda pair: int(coco_mask.area(pair[1])), reverse=True)
    mask = np.zeros((video.height, video.width), np.uint8)
    for category, run in present:
        mask[coco_mask.decode(run) > 0] = category
    return mask
