"""The data set of a training: clips as tensors, preprocessed, augmented, their sound decoded once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from sdavs_model.data.augment import augmentation
from sdavs_model.data.augment.config import Augment
from sdavs_model.data.core.audio import read_audio
from sdavs_model.data.core.audio_cache import SoundCache
from sdavs_model.data.core.clip import Clip
from sdavs_model.data.core.clip_set import ClipSet
from sdavs_model.data.core.log_mel_file import read_log_mel
from sdavs_model.data.core.preprocess import Preprocessor, require_classes
from sdavs_model.data.datasets import open_dataset

FULL_MASKS = "full_masks"


class TrainingClips(Dataset):
    """The clips of a split as tensors, for training and evaluation.

    Items:
        frames [T, 3, S, S] float32, log_mel [T, 1, 96, 64] float32,
        masks [T, S, S] int64 (0 or 1, or class indices; 255 is left out of loss and score),
        valid [T] bool: the frame has a mask; present [T] bool: it is no padding,
        name str, category str (`ClipFiles.category`, so swapped sound can be chosen to share none of it),
        where a protocol scores at the stored size, full_masks [T, H, W] uint8,
        and what `ClipSet.place` says.

    Args:
        source: the clips as they are on disk.
        preprocessor: makes the tensors.
        training: the items are learned from; masks at their stored size are then left out.
        augment: strengths of the augmentation; None leaves clips unchanged.
        seed: of the augmentation, together with the epoch (`set_epoch`) and the clip's index.
        log_mels: caches the log-mel of clips whose sound is not augmented; None computes it every time.

    Raises:
        ValueError: `augment` mixes sounds, but the data set does not say what its clips hold; on reading, as
            `ClipSet`. The message names the file.
    """

    def __init__(
        self,
        source: ClipSet,
        preprocessor: Preprocessor,
        *,
        training: bool = False,
        augment: Augment | None = None,
        seed: int = 0,
        log_mels: SoundCache | None = None,
    ) -> None:
        if augment is not None and augment.mix_prob > 0 and not all(files.sources for files in source.files):
            raise ValueError(f"augment.mix_prob: {source.root} does not record the categories of its clips")
        self.source = source
        self.preprocessor = preprocessor
        self._training = training or augment is not None
        self._augment = augment
        self._log_mels = log_mels
        self._epoch = augmentation.SharedEpoch(seed)

    def __len__(self) -> int:
        return len(self.source)

    def located(self, index: int) -> tuple["TrainingClips", int]:
        """The set that a clip is in, and its index there."""
        return self, index

    @property
    def categories(self) -> list[str]:
        """As `ClipSet.categories`."""
        return self.source.categories

    @property
    def seen(self) -> list[str]:
        """As `ClipSet.seen`."""
        return self.source.seen

    def objects(self, index: int) -> torch.Tensor:
        """[T, S, S] int64 of `ClipSet.objects`, in the size of `masks` and padded in the same way."""
        with self.source.hold(self.source.files[index]):
            return _padded(self.preprocessor.masks(self.source.objects(index)), self.source.num_frames)

    def waveform(self, index: int) -> np.ndarray:
        """As `ClipSet.waveform`: the sound before any augmentation."""
        with self.source.hold(self.source.files[index]):
            return self.source.waveform(index)

    def set_epoch(self, epoch: int, *, whole: bool = False) -> None:
        """Draw new augmentations from here on: the same (seed, epoch, index) gives the same item.

        Args:
            whole: leave `augment.window` out.
        """
        self._epoch.set(epoch, whole=whole)

    @property
    def _window(self) -> int:
        """Seconds of a clip that are used at a time; 0 for all."""
        return 0 if self._augment is None or self._epoch.has_whole_clips else self._augment.window

    def __getitem__(self, index: int) -> dict[str, Any]:
        with self.source.hold(self.source.files[index]):
            return self._item(index)

    def _item(self, index: int) -> dict[str, Any]:
        files = self.source.files[index]
        rng = self._epoch.rng(index)
        has_sound = files.log_mel is None or files.wav.is_file()
        clip, log_mel = self._from_sound(index, rng) if has_sound else self._from_log_mel_file(index, rng)
        assert clip.masks is not None
        if self._augment is not None:
            silence = self.preprocessor.config.silence
            log_mel = augmentation.augment_log_mel(log_mel, self._augment, rng, silence=silence)
        num_frames = clip.num_frames
        length = self._window or self.source.num_frames
        valid = np.ones(num_frames, np.bool_) if clip.valid is None else clip.valid
        masks = self.preprocessor.masks(clip.masks)
        require_classes(
            masks, self.source.num_classes
        )  # here, because on a GPU the check would hold up the training
        item = {
            "frames": _padded(self.preprocessor.frames(clip.frames), length),
            "log_mel": _padded(log_mel, length),
            "masks": _padded(masks, length),
            "valid": _padded(torch.tensor(valid.copy()), length),
            "present": _padded(torch.ones(num_frames, dtype=torch.bool), length),
            "name": files.name,
            "category": self.categories[index],
            **self.source.place(index),
        }
        if self.source.full_size and not self._training:
            item[FULL_MASKS] = torch.tensor(clip.masks)
        return item

    def _from_sound(self, index: int, rng: np.random.Generator) -> tuple[Clip, torch.Tensor]:
        """The clip, augmented if requested, and the log-mel of its sound."""
        files = self.source.files[index]
        if self._augment is None and self._log_mels is not None:
            return self.source.pictures(index), self._kept_log_mel(index, self._log_mels)
        if self._augment is None:
            clip = self.source.clip(index)
        else:
            window = replace(self._augment, window=self._window)
            seconds = augmentation.draw_window(len(files.frames), window, rng, files.valid)
            clip = self._mixed(self.source.clip(index, seconds), index, rng)
            clip = augmentation.augment_clip(clip, self._augment, self.preprocessor.config.image_size, rng)
        return clip, self.preprocessor.log_mel(clip.waveform, clip.num_frames)

    def _from_log_mel_file(self, index: int, rng: np.random.Generator) -> tuple[Clip, torch.Tensor]:
        """The same from AVSBench's log-mel file; the sound itself is not there and cannot be varied."""
        files = self.source.files[index]
        assert files.log_mel is not None
        if self.preprocessor.config.audio_window != "official":
            raise ValueError(
                f"{files.log_mel}: holds AVSBench's 0.96 s windows; set preprocess.audio_window: official, "
                f"or give the sound itself as {files.wav}"
            )
        if self._augment is not None and (self._augment.needs_waveform or self._augment.window):
            raise ValueError(f"{files.log_mel}: sound augmentation needs the sound itself as {files.wav}")
        clip = self.source.pictures(index)
        if self._augment is not None:
            assert clip.masks is not None
            size = self.preprocessor.config.image_size
            frames, masks = augmentation.augment_pictures(clip.frames, clip.masks, self._augment, size, rng)
            clip = replace(clip, frames=frames, masks=masks)
        return clip, self.preprocessor.log_mel_of_vggish(read_log_mel(files.log_mel, clip.num_frames))

    def _kept_log_mel(self, index: int, log_mels: SoundCache) -> torch.Tensor:
        """The clip's log-mel; its sound is decoded only the first time."""
        files, config = self.source.files[index], self.preprocessor.config
        num_frames = len(files.frames)
        settings = {
            "clip": [self.source.kind, files.name, num_frames],
            "preprocess": [config.sample_rate, config.audio_window, config.log_offset, config.example],
        }
        return log_mels.log_mel(
            [files.wav, *files.more],
            settings,
            lambda: self.preprocessor.log_mel(self.waveform(index), num_frames),
        )

    def _mixed(self, clip: Clip, index: int, rng: np.random.Generator) -> Clip:
        """Add the sound of another clip none of whose categories is seen here, so the masks stay right."""
        assert self._augment is not None
        if rng.random() >= self._augment.mix_prob:
            return clip
        other = int(rng.integers(len(self)))
        if not set(self.seen[index].split("+")).isdisjoint(self.categories[other].split("+")):
            return clip
        with self.source.hold(self.source.files[other]):
            sound = self.source.read_sound(self.source.files[other].wav)
        return augmentation.mix(clip, sound, self._augment, rng)


def open_training_clips(
    kind: str,
    root: str | Path,
    split: str,
    preprocessor: Preprocessor,
    *,
    num_frames: int = 5,
    training: bool = False,
    augment: Augment | None = None,
    seed: int = 0,
    sounds: SoundCache | None = None,
) -> TrainingClips:
    """One split of a data set as tensors.

    Args:
        kind, root, split, num_frames: as in `open_dataset`.
        preprocessor, training, augment, seed: as in `TrainingClips`.
        sounds: keeps decoded sound and log-mels; None decodes every time.

    Raises:
        ValueError: as `open_dataset` and `TrainingClips`.
    """
    read_sound = read_audio if sounds is None else sounds.waveform
    source = open_dataset(kind, root, split, num_frames=num_frames, read_sound=read_sound)
    return TrainingClips(source, preprocessor, training=training, augment=augment, seed=seed, log_mels=sounds)


def collate_clips(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Items -> one batch; masks at their stored sizes stay a list."""
    batch = default_collate([{k: v for k, v in item.items() if k != FULL_MASKS} for item in items])
    if FULL_MASKS in items[0]:
        batch[FULL_MASKS] = [item[FULL_MASKS] for item in items]
    return batch


def _padded(tensor: torch.Tensor, length: int) -> torch.Tensor:
    """[T, ...] -> [length, ...], zeros (False) behind the clip's own frames."""
    if len(tensor) == length:
        return tensor
    padding = torch.zeros(length - len(tensor), *tensor.shape[1:], dtype=tensor.dtype)
    return torch.cat([tensor, padding])
