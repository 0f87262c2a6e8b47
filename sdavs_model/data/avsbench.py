"""AVSBench on disk -> tensors. One loader for the real MS3 and for every data set written in its layout."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

from sdavs_model.data import augment as augmentation
from sdavs_model.data.audio import read_audio
from sdavs_model.data.augment import Augment
from sdavs_model.data.clip import SAMPLE_RATE, Clip
from sdavs_model.data.log_mel_file import read_log_mel
from sdavs_model.data.preprocess import Preprocessor

LAYOUT_FOLDER = "Multi-sources"
META_FILE = "ms3_meta_data.csv"
DATA_FOLDER = "ms3_data"


@dataclass(frozen=True, kw_only=True)
class Video:
    """The files of one video of the multi-source set (AVSBench's own names)."""

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]
    wav: Path
    log_mel: Path
    sources: Path
    """Who sounds and who is seen, a JSON beside the data; only composed data sets have it."""

    @property
    def files(self) -> list[Path]:
        """Every file that a training step may read."""
        sound = self.wav if self.wav.is_file() else self.log_mel
        return [*self.frames, *self.masks, sound, *([self.sources] if self.sources.is_file() else [])]


class AVSBenchMS3(Dataset):
    """The multi-source set of AVSBench (MS3), or a data set in its layout, one split of it.

    Reads one clip at a time; what it holds is a list of paths. All files are looked for when it is made, so a
    broken copy is refused before a training starts; their content is checked when it is read.

    Items: {"frames": [T, 3, S, S] float32, "log_mel": [T, 1, 96, 64] float32, "masks": [T, S, S] int64 (0 or
    1), "name": str, "category": str}. `category` joins the categories heard in the clip with "+" in alphabetical
    order ("" where the data set does not say), so swapped sound can be chosen to share none of them.

    Args:
        root: the folder `Multi-sources`, or the folder that holds it.
        split: a value of the csv's split column.
        preprocessor: makes the tensors.
        num_frames: T, frames and seconds of a clip; MS3 has 5.
        augment: how training clips are varied; None leaves them as they are.
        seed: of the augmentation, together with the epoch (`set_epoch`) and the clip's index.

    Raises:
        ValueError: a missing folder, csv, split, frame, mask or sound, a wrong number of frames; on reading,
            a corrupt picture or sound, sound shorter than the frames, a mask of another size than its frame.
            The message names the file.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        split: str,
        preprocessor: Preprocessor,
        num_frames: int = 5,
        augment: Augment | None = None,
        seed: int = 0,
    ) -> None:
        self.root = find_layout(Path(root))
        self.split = split
        self.preprocessor = preprocessor
        self.num_frames = num_frames
        self.augment = augment
        self.seed = seed
        self.epoch = 0
        table = read_table(self.root / META_FILE)
        self.splits: tuple[str, ...] = tuple(dict.fromkeys(table.values()))
        if split not in self.splits:
            raise ValueError(
                f"{self.root / META_FILE}: no split {split!r}; it has {', '.join(self.splits) or 'none'}"
            )
        names = [name for name, value in table.items() if value == split]
        self.videos = [find_video(self.root / DATA_FOLDER, split, name, num_frames) for name in names]
        if augment is not None and augment.mix_prob > 0 and not all(v.sources.is_file() for v in self.videos):
            raise ValueError(f"augment.mix_prob: {self.root} does not say which categories its clips hold")

    def __len__(self) -> int:
        return len(self.videos)

    def set_epoch(self, epoch: int) -> None:
        """Draws new augmentations from here on: the same (seed, epoch, index) gives the same item."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | str]:
        video = self.videos[index]
        sources = self._sources(index)
        if video.wav.is_file():
            if self.augment is None:
                clip = self.clip(index)
            else:
                rng = np.random.default_rng([self.seed, self.epoch, index])
                clip = self.clip(index, augmentation.draw_window(self.num_frames, self.augment, rng))
                clip = self._mix(clip, index, rng)
                clip = augmentation.augment_clip(clip, self.augment, self.preprocessor.config.image_size, rng)
            frames, masks = clip.frames, clip.masks
            log_mel = self.preprocessor.log_mel(clip.waveform, len(frames))
            if self.augment is not None:
                log_mel = augmentation.augment_log_mel(log_mel, self.augment, rng)
        else:
            frames, masks, log_mel = self._item_of_stored_log_mel(index)
        assert masks is not None
        return {
            "frames": self.preprocessor.frames(frames),
            "log_mel": log_mel,
            "masks": self.preprocessor.masks(masks),
            "name": video.name,
            "category": "+".join(sources["heard"]),
        }

    def clip(self, index: int, seconds: slice = slice(None)) -> Clip:
        """The clip as it is on disk, or a run of its seconds. Raises ValueError as the class says."""
        video = self.videos[index]
        waveform = self.waveform(index).reshape(self.num_frames, SAMPLE_RATE)[seconds].reshape(-1)
        frames, masks = read_pictures(video, seconds)
        return Clip(name=video.name, frames=frames, waveform=waveform, masks=masks)

    def waveform(self, index: int) -> np.ndarray:
        """[T * 16000] float32, the sound of the clip as it is on disk. Raises ValueError as the class says."""
        wav = self.videos[index].wav
        waveform = read_audio(wav)
        # Videos are cut to whole seconds only roughly; a second of which half is there counts as heard.
        if len(waveform) < (self.num_frames - 0.5) * SAMPLE_RATE:
            raise ValueError(
                f"{wav}: {len(waveform) / SAMPLE_RATE:.2f} s of sound for {self.num_frames} frames, so "
                f"frame {int(len(waveform) / SAMPLE_RATE + 0.5) + 1} has none"
            )
        aligned = np.zeros(self.num_frames * SAMPLE_RATE, np.float32)
        aligned[: len(waveform)] = waveform[: len(aligned)]
        return aligned

    @functools.cached_property
    def digest(self) -> str:
        """sha256 (hex) over the path and content of every file of this split: what a training saw."""
        total = hashlib.sha256()
        for video in self.videos:
            for file in video.files:
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                total.update(f"{file.relative_to(self.root).as_posix()} {content}\n".encode())
        return total.hexdigest()

    @functools.cached_property
    def categories(self) -> list[str]:
        """Each clip's `category`, without reading its pictures and sound."""
        return ["+".join(self._sources(index)["heard"]) for index in range(len(self))]

    @functools.cached_property
    def seen(self) -> list[str]:
        """What each clip shows, also what stays silent, joined as in `category`; "" where unknown."""
        return ["+".join(self._sources(index)["seen"]) for index in range(len(self))]

    def _item_of_stored_log_mel(self, index: int) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
        video = self.videos[index]
        if self.preprocessor.config.audio_window != "official":
            raise ValueError(
                f"{video.log_mel}: holds AVSBench's 0.96 s windows; set preprocess.audio_window: official, "
                f"or give the sound itself as {video.wav}"
            )
        if self.augment is not None and self.augment.needs_waveform:
            raise ValueError(f"{video.log_mel}: sound augmentation needs the sound itself as {video.wav}")
        log_mel = read_log_mel(video.log_mel, self.num_frames)
        frames, masks = read_pictures(video)
        if self.augment is not None:
            rng = np.random.default_rng([self.seed, self.epoch, index])
            size = self.preprocessor.config.image_size
            frames, masks = augmentation.augment_pictures(frames, masks, self.augment, size, rng)
            log_mel = augmentation.augment_log_mel(log_mel, self.augment, rng)
        return frames, masks, log_mel

    def _mix(self, clip: Clip, index: int, rng: np.random.Generator) -> Clip:
        """Adds the sound of another clip none of whose categories is seen here: the masks stay true."""
        assert self.augment is not None
        if rng.random() >= self.augment.mix_prob:
            return clip
        other = int(rng.integers(len(self)))
        if not set(self._sources(index)["seen"]).isdisjoint(self._sources(other)["heard"]):
            return clip
        return augmentation.mix(clip, read_audio(self.videos[other].wav), self.augment, rng)

    def _sources(self, index: int) -> dict[str, list[str]]:
        path = self.videos[index].sources
        if not path.is_file():
            return {"heard": [], "seen": []}
        return json.loads(path.read_text())


def find_layout(root: Path) -> Path:
    """The `Multi-sources` folder that `root` is or holds. Raises ValueError if there is none."""
    if not root.is_dir():
        raise ValueError(f"{root}: no such data folder")
    for folder in (root / LAYOUT_FOLDER, root):
        if (folder / META_FILE).is_file():
            return folder
    raise ValueError(f"{root / LAYOUT_FOLDER / META_FILE}: missing; {root} is not in AVSBench's MS3 layout")


def read_table(path: Path) -> dict[str, str]:
    """{video: split} of a `ms3_meta_data.csv`; columns by name if the header has them, else the first two."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows or len(rows[0]) < 2:
        raise ValueError(f"{path}: needs a header and the columns video_id and split")
    header, *rows = rows
    video = header.index("video_id") if "video_id" in header else 0
    split = header.index("split") if "split" in header else 1
    short = [number for number, row in enumerate(rows, 2) if len(row) <= max(video, split)]
    if short:
        raise ValueError(f"{path}: line {short[0]} has too few columns")
    return {row[video]: row[split] for row in rows}


def find_video(data: Path, split: str, name: str, num_frames: int) -> Video:
    """The files of one video, each looked for. Raises ValueError naming the first that is missing."""
    frame_folder = data / "visual_frames" / name
    mask_folder = data / "gt_masks" / split / name
    for folder, what in ((frame_folder, "frames"), (mask_folder, "masks")):
        if not folder.is_dir():
            raise ValueError(f"{folder}: missing, the {what} of video {name!r}")
        num_files = len(list(folder.glob("*.png")))
        if num_files > num_frames:
            raise ValueError(f"{folder}: {num_files} {what}, expected {num_frames}")
    video = Video(
        name=name,
        frames=tuple(frame_folder / f"{name}.mp4_{number}.png" for number in range(1, num_frames + 1)),
        masks=tuple(mask_folder / f"{name}_{number}.png" for number in range(1, num_frames + 1)),
        wav=data / "audio_wav" / split / f"{name}.wav",
        log_mel=data / "audio_log_mel" / split / f"{name}.pkl",
        sources=data / "sources" / split / f"{name}.json",
    )
    for file in (*video.frames, *video.masks):
        if not file.is_file():
            raise ValueError(f"{file}: missing, one of the {num_frames} of video {name!r}")
    if not video.wav.is_file() and not video.log_mel.is_file():
        raise ValueError(f"{video.wav}: missing, frames without sound (and no {video.log_mel})")
    return video


def read_pictures(video: Video, seconds: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """[T, H, W, 3] uint8 frames and [T, H, W] uint8 masks, 1 where a pixel sounds (not black).

    Args:
        video: where the files are.
        seconds: which of them to read.

    Raises:
        ValueError: a corrupt picture, frames of different sizes, a mask of another size than its frame.
    """
    frame_paths, mask_paths = video.frames[seconds], video.masks[seconds]
    frames = [_read_image(path, "RGB") for path in frame_paths]
    # As stored: palette files keep their indices (AVSBench opens them as mode P).
    masks = [_read_image(path, None) for path in mask_paths]
    for frame, mask, frame_path, mask_path in zip(frames, masks, frame_paths, mask_paths, strict=True):
        if frame.shape != frames[0].shape:
            raise ValueError(f"{frame_path}: {_size(frame)}, but {frame_paths[0].name} is {_size(frames[0])}")
        if mask.shape[:2] != frame.shape[:2]:
            raise ValueError(f"{mask_path}: {_size(mask)}, but its frame {frame_path.name} is {_size(frame)}")
    foreground = [(mask if mask.ndim == 2 else mask[..., :3].any(axis=-1)) > 0 for mask in masks]
    return np.stack(frames), np.stack(foreground).astype(np.uint8)


def _read_image(path: Path, mode: str | None) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image if mode is None else image.convert(mode))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as a picture ({error})") from error


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
