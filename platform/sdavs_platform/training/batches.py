"""The batches of a worker: which clip it gets at which step is a function of (seed, epoch, step), never of timing."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from sdavs_model.audio_control import AudioControlled
from sdavs_model.data.augment.config import Augment
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.data.feature_clips import FeatureClips, FrozenEncoders
from sdavs_model.data.paired_sounds import PairedSounds
from sdavs_model.data.training_clips import TrainingClips, collate_clips
from sdavs_model.metrics import Metrics, validation_metrics
from sdavs_platform.config.paths import state_folder
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.storage.datasets import open_split
from sdavs_platform.storage.streaming import Ahead
from sdavs_platform.training.mixing import ClipOrder, MixedClips, clip_order, open_training_sets

NUM_AHEAD = 8
"""Our choice: batches that are being fetched while one is trained on; only of clips in shards."""


class GlobalBatchSampler(Sampler[list[int]]):
    """This worker's part of every global batch of one epoch.

    The order of clips depends on seed and epoch alone: any number of workers forms the same global batches.
    The last clips, too few for a batch, are left out; the next epoch leaves out others. Parts differ by one clip
    where the workers do not divide the batch.

    Args:
        order: draws the clips of an epoch, N of them; items are counted from 0.
        sounds: items of a clip that follow each other in a batch: clip i's are i, i + N and so on. An epoch then has
            as many batches, of fewer clips.
        ahead: gets the items of a batch `NUM_AHEAD` batches before it is needed, to fetch them.

    Attributes:
        first_batch: where to resume inside the epoch; 0 is its beginning.
        batch_clips: how many clips of each batch are used: `batch_size`, or fewer where they are longer.
    """

    def __init__(
        self,
        *,
        order: ClipOrder,
        batch_size: int,
        rank: int,
        world_size: int,
        seed: int,
        sounds: int = 1,
        ahead: Callable[[list[int]], None] = lambda items: None,
    ) -> None:
        assert world_size <= batch_size
        self._order = order
        self.num_clips = order.num_clips
        self.sounds = sounds
        self._ahead = ahead
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.first_batch = 0
        self.batch_clips = batch_size
        self._rank, self._world_size = rank, world_size

    @property
    def num_batches(self) -> int:
        """Batches in a whole epoch, which are its steps."""
        return self.num_clips // self.batch_size

    def __len__(self) -> int:
        return self.num_batches - self.first_batch

    def __iter__(self) -> Iterator[list[int]]:
        clips = self._order.draw(np.random.default_rng([self.seed, self.epoch]))
        order = np.add.outer(clips, self.num_clips * np.arange(self.sounds)).ravel().tolist()
        first, last = (r * self.batch_clips // self._world_size for r in (self._rank, self._rank + 1))
        batches = [
            order[batch * self.batch_size + first : batch * self.batch_size + last]
            for batch in range(self.first_batch, self.num_batches)
        ]
        for items in batches[:NUM_AHEAD]:
            self._ahead(items)
        for number, items in enumerate(batches):
            self._ahead(batches[number + NUM_AHEAD] if number + NUM_AHEAD < len(batches) else [])
            yield items


class Batches:
    """The loaders of one worker."""

    def __init__(self, config: RunConfig, *, rank: int, world_size: int) -> None:
        sets = open_training_sets(config)
        self.clips = sets[0] if len(sets) == 1 else MixedClips(sets)
        is_streamed = any(clips.source.recorded_digest is not None for clips in sets)
        self._ahead = Ahead() if is_streamed and not config.data.cache_features else None
        self._cached = FeatureCache(config) if config.data.cache_features else None
        self.val_clips = open_split(config, config.data.val_split)
        self.sampler = GlobalBatchSampler(
            order=clip_order(config, sets),
            batch_size=config.training.batch_size,
            rank=rank,
            world_size=world_size,
            seed=config.seed,
            sounds=2 if config.data.paired_sounds else 1,
            ahead=self._fetch_ahead,
        )
        self._options: dict[str, Any] = {
            "num_workers": config.data.num_workers,
            "pin_memory": config.cluster.use_gpu,
            "collate_fn": collate_clips,
            # Connections to a bucket do not survive a fork.
            "multiprocessing_context": "forkserver" if is_streamed and config.data.num_workers else None,
        }
        self._audio = config.data.audio
        self._silence = Preprocessor(config.model.preprocess).silence()
        self._val_batch = -(-config.training.batch_size // (world_size * config.training.accumulate))
        self._rank, self._world_size = rank, world_size
        epochs = config.training.epochs
        self._whole_epochs = range(epochs - round(config.data.whole_clips * epochs), epochs)
        # As many frames as in windows.
        self._whole_batch = config.training.batch_size * config.data.augment.window // config.model.num_frames
        self._train_items: Dataset[Any] = self._items(
            self.clips, config.data.train_split, augment=config.data.augment
        )
        if config.data.paired_sounds:
            assert isinstance(self._train_items, FeatureClips)
            assert isinstance(self.clips, TrainingClips)
            self._train_items = PairedSounds(self._train_items, self.clips, seed=config.seed)
        self._val_items = self._items(self.val_clips, config.data.val_split)
        self._swapped_items: AudioControlled | FeatureClips | None = None
        if config.training.select_by == "listening":
            swapped = AudioControlled(self.val_clips, control="swapped", silence=self._silence)
            self._swapped_items = self._encoded(swapped, config.data.val_split)
        self.train_loader = DataLoader(
            self._train_items,
            batch_sampler=self.sampler,
            # Starting processes for every epoch would cost seconds each time.
            persistent_workers=config.data.num_workers > 0,
            **self._options,
        )

    def epoch(self, epoch: int, *, first_batch: int = 0) -> DataLoader[dict[str, Any]]:
        """The training batches of one epoch: clips, order and augmentation follow from its number."""
        whole = epoch in self._whole_epochs
        self.clips.set_epoch(epoch, whole=whole)
        if isinstance(self._train_items, FeatureClips | PairedSounds):
            self._train_items.set_epoch(epoch, whole=whole)
        self.sampler.batch_clips = self._whole_batch if whole else self.sampler.batch_size
        self.sampler.epoch = epoch
        self.sampler.first_batch = first_batch
        return self.train_loader

    def _fetch_ahead(self, items: list[int]) -> None:
        """Prefetch the clips of a later batch; does nothing for clips in a folder."""
        if self._ahead is not None:
            for item in items:
                clips, index = self.clips.located(item % self.sampler.num_clips)
                self._ahead.fetch(clips.source, index)

    def validation(self) -> DataLoader[dict[str, Any]]:
        """This worker's part of the validation clips; the lengths of the parts differ by one clip at most."""
        return self._val_loader(self._val_items)

    def swapped_validation(self) -> DataLoader[dict[str, Any]] | None:
        """The same clips with swapped sound, if checkpoints are chosen by listening."""
        return None if self._swapped_items is None else self._val_loader(self._swapped_items)

    def metrics(self) -> Metrics:
        """Empty metrics for the validation split."""
        return validation_metrics(self.val_clips.source)

    def fixed_batch(self, num_clips: int = 3) -> dict[str, Any]:
        """The same few validation clips every time, spread over the split: for pictures and the probe."""
        num_clips = min(num_clips, len(self.val_clips))
        indices = [i * len(self.val_clips) // num_clips for i in range(num_clips)]
        clips: Dataset[Any] = Subset(self._heard(self.val_clips), indices)
        return next(iter(DataLoader(clips, batch_size=num_clips, collate_fn=collate_clips)))

    def _items(
        self, clips: TrainingClips | MixedClips, split: str, *, augment: Augment | None = None
    ) -> AudioControlled | FeatureClips:
        return self._encoded(self._heard(clips), split, augment=augment)

    def _encoded(
        self, heard: AudioControlled, split: str, *, augment: Augment | None = None
    ) -> AudioControlled | FeatureClips:
        return heard if self._cached is None else self._cached.clips(heard, split, augment=augment)

    def _val_loader(self, items: Dataset[Any]) -> DataLoader[dict[str, Any]]:
        part = range(self._rank, len(self.val_clips), self._world_size)
        clips: Dataset[Any] = Subset(items, list(part))
        return DataLoader(clips, batch_size=self._val_batch, **self._options)

    def _heard(self, clips: TrainingClips | MixedClips) -> AudioControlled:
        return AudioControlled(clips, control=self._audio, silence=self._silence)


class FeatureCache:
    """The outputs of a run's frozen encoders for its clips, cached in the state folder of this machine."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._encoders = FrozenEncoders(config.model)

    def clips(self, heard: AudioControlled, split: str, *, augment: Augment | None = None) -> FeatureClips:
        """The same clips, encoded; `augment` is for training."""
        model = self._config.model
        source = heard.clips.source
        return FeatureClips(
            heard,
            encoders=self._encoders,
            folder=state_folder() / "cache" / "features",
            made_of={
                "data": [source.kind, source.digest, split, heard.control],
                "preprocess": dataclasses.asdict(model.preprocess),
                "num_frames": model.num_frames,
            },
            augment=augment,
            seed=self._config.seed,
        )
