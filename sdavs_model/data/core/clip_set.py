"""What every data set offers to training and evaluation, whatever its layout on disk."""

from __future__ import annotations

import functools
import hashlib
import json
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from sdavs_model.data.augment import augmentation
from sdavs_model.data.augment.augmentation import Augment
from sdavs_model.data.core.audio import read_audio, whole_seconds
from sdavs_model.data.core.audio_cache import SoundCache
from sdavs_model.data.core.clip import SAMPLE_RATE, Clip
from sdavs_model.data.core.clip_files import Video
from sdavs_model.data.core.images import read_frames, read_image, size_text
from sdavs_model.data.core.log_mel_file import read_log_mel
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.files import sha256_of

BINARY_CLASSES = ("background", "sounding object")
FULL_MASKS = "full_masks"


class ClipSet(Dataset):
    """One split of a data set: reads one clip at a time and holds a list of paths.

    All files are looked for when it is made, so a broken copy is refused before a training starts; their
    content is checked when it is read.

    Items:
        frames [T, 3, S, S] float32, log_mel [T, 1, 96, 64] float32,
        masks [T, S, S] int64 (0 or 1, or class indices; 255 is left out of loss and score),
        valid [T] bool: the frame has a mask; present [T] bool: it is no padding,
        name str, category str (`Video.category`, so swapped sound can be chosen to share none of it),
        and, where a protocol scores at the stored size, full_masks [T, H, W] uint8.

    Args:
        root: the data set's folder.
        split: one of its splits.
        preprocessor: makes the tensors.
        num_frames: T, frames and seconds of a clip.
        training: the items are learned from; masks at their stored size are then left out.
        augment: how training clips are varied; None leaves them as they are.
        seed: of the augmentation, together with the epoch (`set_epoch`) and the clip's index.
        sounds: keeps decoded sound and, where the sound is not varied, its log-mel; None decodes every time.

    Raises:
        ValueError: a missing folder, table, split, frame, mask or sound, a wrong number of frames; on reading,
            a corrupt picture or sound, sound shorter than the frames, a mask of another size than its frame.
            The message names the file.
    """

    kind: ClassVar[str]
    """As in `sdavs_model.data.datasets.KINDS`."""
    protocol: ClassVar[str]
    """Whose numbers the community compares: a name in `sdavs_model.metrics.protocols`."""
    full_size: ClassVar[bool] = False
    """Whether the protocol scores at the masks' stored size."""

    root: Path
    classes: tuple[str, ...] = BINARY_CLASSES
    """Names of the mask values from 0 on, background first."""
    tables: tuple[Path, ...] = ()
    """Files that say what is in the split and are part of its digest."""

    def __init__(
        self,
        *,
        root: str | Path,
        split: str,
        preprocessor: Preprocessor,
        num_frames: int = 5,
        training: bool = False,
        augment: Augment | None = None,
        seed: int = 0,
        sounds: SoundCache | None = None,
    ) -> None:
        self.split = split
        self.preprocessor = preprocessor
        self.num_frames = num_frames
        self.training = training or augment is not None
        self.augment = augment
        self.seed = seed
        self.sounds = sounds
        self.epoch = 0
        if not Path(root).is_dir():
            raise ValueError(f"{root}: no such data folder")
        self.splits = self.list_splits(Path(root))
        if split not in self.splits:
            raise ValueError(f"{root}: no split {split!r}; it has {', '.join(self.splits) or 'none'}")
        self.videos: list[Video] = self._open(Path(root))
        if augment is not None and augment.mix_prob > 0 and not all(video.sources for video in self.videos):
            raise ValueError(f"augment.mix_prob: {self.root} does not say which categories its clips hold")

    @classmethod
    @abstractmethod
    def list_splits(cls, root: Path) -> tuple[str, ...]:
        """The splits that the data set's tables name. Raises ValueError if a table is missing."""

    @abstractmethod
    def _open(self, root: Path) -> list[Video]:
        """Sets `root` (and `classes`, `tables`), looks for every file of the split."""

    def __len__(self) -> int:
        return len(self.videos)

    @property
    def num_classes(self) -> int:
        """`SDAVSConfig.num_classes` for this data set: 1 if its masks are binary."""
        return 1 if self.classes == BINARY_CLASSES else len(self.classes)

    def set_epoch(self, epoch: int) -> None:
        """Draws new augmentations from here on: the same (seed, epoch, index) gives the same item."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        video = self.videos[index]
        rng = np.random.default_rng([self.seed, self.epoch, index])
        clip, log_mel = self._heard(index, rng) if self._has_sound(video) else self._stored(index, rng)
        assert clip.masks is not None
        if self.augment is not None:
            log_mel = augmentation.augment_log_mel(log_mel, self.augment, rng)
        num_frames = clip.num_frames
        length = (self.augment.window if self.augment else 0) or self.num_frames
        valid = np.ones(num_frames, np.bool_) if clip.valid is None else clip.valid
        item = {
            "frames": _padded(self.preprocessor.frames(clip.frames), length),
            "log_mel": _padded(log_mel, length),
            "masks": _padded(self.preprocessor.masks(clip.masks), length),
            "valid": _padded(torch.tensor(valid.copy()), length),
            "present": _padded(torch.ones(num_frames, dtype=torch.bool), length),
            "name": video.name,
            "category": self.categories[index],
        }
        if self.full_size and not self.training:
            item[FULL_MASKS] = torch.tensor(clip.masks)
        return item

    def clip(self, index: int, seconds: slice = slice(None)) -> Clip:
        """The clip as it is on disk, or a run of its seconds. Raises ValueError as the class says."""
        video = self.videos[index]
        num_frames = len(video.frames)
        waveform = self.waveform(index).reshape(num_frames, SAMPLE_RATE)[seconds].reshape(-1)
        frames = read_frames(video.frames[seconds])
        masks = self.read_masks(video, seconds, frames)
        return Clip(
            name=video.name, frames=frames, waveform=waveform, masks=masks, valid=video.valid[seconds]
        )

    def pictures(self, index: int) -> Clip:
        """The clip with silence in place of its sound, which is not read."""
        video = self.videos[index]
        frames = read_frames(video.frames)
        masks = self.read_masks(video, slice(None), frames)
        silence = np.zeros(len(frames) * SAMPLE_RATE, np.float32)
        return Clip(name=video.name, frames=frames, waveform=silence, masks=masks, valid=video.valid)

    def waveform(self, index: int) -> np.ndarray:
        """[len(frames) * 16000] float32: the clip's sound, mono, cut to whole seconds."""
        video = self.videos[index]
        return whole_seconds(self.read_sound(video.wav), len(video.frames), video.wav)

    def read_sound(self, path: Path) -> np.ndarray:
        """[N] float32 at 16 kHz, mono; decoded once if there is a cache. Raises ValueError as `read_audio`."""
        return read_audio(path) if self.sounds is None else self.sounds.waveform(path)

    def read_masks(self, video: Video, seconds: slice, frames: np.ndarray) -> np.ndarray:
        """[T, H, W] uint8 beside [T, H, W, 3] frames; all 0 where a frame has no mask."""
        paths = zip(video.masks[seconds], frames, video.frames[seconds], strict=True)
        masks = [np.zeros(f.shape[:2], np.uint8) if m is None else self._mask(m, f, p) for m, f, p in paths]
        return np.stack(masks)

    def decode_mask(self, path: Path, stored: np.ndarray) -> np.ndarray:
        """[H, W] uint8 class indices from the picture as it is stored; `path` is for messages."""
        raise NotImplementedError

    @functools.cached_property
    def digest(self) -> str:
        """sha256 (hex) over the path and content of every file of this split: what a training saw."""
        total = hashlib.sha256()
        for file in dict.fromkeys([*self.tables, *(file for video in self.videos for file in video.files)]):
            total.update(f"{file.relative_to(self.root).as_posix()} {sha256_of(file)}\n".encode())
        return total.hexdigest()

    @functools.cached_property
    def categories(self) -> list[str]:
        """Each clip's `category`, without reading its pictures and sound."""
        return ["+".join(_read_sources(v)["heard"]) if v.sources else v.category for v in self.videos]

    @functools.cached_property
    def seen(self) -> list[str]:
        """What each clip shows, also what stays silent, joined as in `category`; "" where unknown."""
        return ["+".join(_read_sources(video)["seen"]) if video.sources else "" for video in self.videos]

    def _has_sound(self, video: Video) -> bool:
        return video.log_mel is None or video.wav.is_file()

    def _mask(self, path: Path, frame: np.ndarray, frame_path: Path) -> np.ndarray:
        mask = self.decode_mask(path, read_image(path))
        if mask.shape != frame.shape[:2]:
            raise ValueError(
                f"{path}: {size_text(mask)}, but its frame {frame_path.name} is {size_text(frame)}"
            )
        return mask

    def _heard(self, index: int, rng: np.random.Generator) -> tuple[Clip, torch.Tensor]:
        """The clip, varied if that was asked for, and the log-mel of its sound."""
        video = self.videos[index]
        if self.augment is None and self.sounds is not None:
            return self.pictures(index), self._kept_log_mel(index, self.sounds)
        if self.augment is None:
            clip = self.clip(index)
        else:
            seconds = augmentation.draw_window(len(video.frames), self.augment, rng, video.valid)
            clip = self._mixed(self.clip(index, seconds), index, rng)
            clip = augmentation.augment_clip(clip, self.augment, self.preprocessor.config.image_size, rng)
        return clip, self.preprocessor.log_mel(clip.waveform, clip.num_frames)

    def _stored(self, index: int, rng: np.random.Generator) -> tuple[Clip, torch.Tensor]:
        """The same from AVSBench's log-mel file; the sound itself is not there and cannot be varied."""
        video = self.videos[index]
        assert video.log_mel is not None
        if self.preprocessor.config.audio_window != "official":
            raise ValueError(
                f"{video.log_mel}: holds AVSBench's 0.96 s windows; set preprocess.audio_window: official, "
                f"or give the sound itself as {video.wav}"
            )
        if self.augment is not None and (self.augment.needs_waveform or self.augment.window):
            raise ValueError(f"{video.log_mel}: sound augmentation needs the sound itself as {video.wav}")
        clip = self.pictures(index)
        if self.augment is not None:
            assert clip.masks is not None
            size = self.preprocessor.config.image_size
            frames, masks = augmentation.augment_pictures(clip.frames, clip.masks, self.augment, size, rng)
            clip = replace(clip, frames=frames, masks=masks)
        return clip, read_log_mel(video.log_mel, clip.num_frames)

    def _kept_log_mel(self, index: int, sounds: SoundCache) -> torch.Tensor:
        """The clip's log-mel; its sound is decoded the first time alone."""
        video, config = self.videos[index], self.preprocessor.config
        num_frames = len(video.frames)
        settings = {
            "clip": [self.kind, video.name, num_frames],
            "preprocess": [config.sample_rate, config.audio_window],
        }
        return sounds.log_mel(
            [video.wav, *video.more],
            settings,
            lambda: self.preprocessor.log_mel(self.waveform(index), num_frames),
        )

    def _mixed(self, clip: Clip, index: int, rng: np.random.Generator) -> Clip:
        """Adds the sound of another clip none of whose categories is seen here: the masks stay true."""
        assert self.augment is not None
        if rng.random() >= self.augment.mix_prob:
            return clip
        other = int(rng.integers(len(self)))
        if not set(self.seen[index].split("+")).isdisjoint(self.categories[other].split("+")):
            return clip
        return augmentation.mix(clip, self.read_sound(self.videos[other].wav), self.augment, rng)


def collate_clips(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Items -> one batch; masks at their stored sizes stay a list."""
    batch = default_collate([{k: v for k, v in item.items() if k != FULL_MASKS} for item in items])
    if FULL_MASKS in items[0]:
        batch[FULL_MASKS] = [item[FULL_MASKS] for item in items]
    return batch


def _read_sources(video: Video) -> dict[str, list[str]]:
    assert video.sources is not None
    return json.loads(video.sources.read_text())


def _padded(tensor: torch.Tensor, length: int) -> torch.Tensor:
    """[T, ...] -> [length, ...], zeros (False) behind the clip's own frames."""
    if len(tensor) == length:
        return tensor
    padding = torch.zeros(length - len(tensor), *tensor.shape[1:], dtype=tensor.dtype)
    return torch.cat([tensor, padding])
