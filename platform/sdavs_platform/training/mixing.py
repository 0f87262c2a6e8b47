"""The training clips of an epoch: of one data set or several, each clip once or drawn by weight."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from sdavs_model.data.training_clips import TrainingClips
from sdavs_platform.config.tree import MixedSet, RunConfig
from sdavs_platform.storage.datasets import open_split


class MixedClips(Dataset):
    """The clips of several sets, one set after another.

    Args:
        sets: at least one.
    """

    def __init__(self, sets: Sequence[TrainingClips]) -> None:
        self.sets = list(sets)
        self._ends = list(accumulate(len(clips) for clips in sets))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        clips, own = self.located(index)
        return clips[own]

    def located(self, index: int) -> tuple[TrainingClips, int]:
        """The set that a clip is in, and its index there."""
        number = bisect_right(self._ends, index)
        return self.sets[number], index - (self._ends[number - 1] if number else 0)

    @property
    def categories(self) -> list[str]:
        """As `TrainingClips.categories`."""
        return [category for clips in self.sets for category in clips.categories]

    def set_epoch(self, epoch: int, *, whole: bool = False) -> None:
        """As `TrainingClips.set_epoch`."""
        for clips in self.sets:
            clips.set_epoch(epoch, whole=whole)


class ClipOrder:
    """The clips of an epoch, in order. An epoch has as many as all sets hold.

    Args:
        sizes: clips of each set.
        weights: how often a clip is drawn from each set, relative to the others; None for the sets' sizes, with which
            each clip comes once.
        categories: of each clip of all sets; for `balance`.
        balance: 0 leaves the clips of a set alike; 1 draws all its categories equally often; between them a clip's
            probability falls with the frequency of its category to this power.
    """

    def __init__(
        self,
        *,
        sizes: Sequence[int],
        weights: Sequence[float] | None = None,
        categories: Sequence[str] = (),
        balance: float = 0.0,
    ) -> None:
        self._sizes = list(sizes)
        self._is_plain = weights is None and balance == 0
        self._counts = _apportioned(sum(sizes), weights or sizes)
        self._probabilities: list[np.ndarray | None] = [None] * len(self._sizes)
        if balance:
            start = 0
            for number, size in enumerate(self._sizes):
                own = categories[start : start + size]
                frequency = Counter(own)
                odds = np.array([frequency[category] ** -balance for category in own])
                self._probabilities[number] = odds / odds.sum()
                start += size

    @property
    def num_clips(self) -> int:
        """Clips of an epoch."""
        return sum(self._sizes)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Indices of an epoch's clips, [num_clips] int64."""
        if self._is_plain:
            return rng.permutation(self.num_clips)
        parts, start = [], 0
        for size, count, odds in zip(self._sizes, self._counts, self._probabilities, strict=True):
            if odds is None:
                # Every clip equally often; the remainder by chance.
                rounds = [rng.permutation(size) for _ in range(-(-count // size))]
                drawn = np.concatenate([*rounds, np.empty(0, np.int64)])[:count]
            else:
                drawn = rng.choice(size, count, p=odds)
            parts.append(start + drawn.astype(np.int64))
            start += size
        return rng.permutation(np.concatenate(parts))


def open_training_sets(config: RunConfig) -> list[TrainingClips]:
    """The training clips of `data.root` and of each set of `data.mix`.

    Raises:
        ValueError: a set is missing, is of another kind, or has other classes; names it.
    """
    sets = [open_split(config, config.data.train_split, training=True)]
    first = sets[0].source
    for number, mixed in enumerate(config.data.mix):
        clips = open_split(_with_data_of(config, mixed), mixed.split, training=True)
        if (clips.source.kind, clips.source.classes) != (first.kind, first.classes):
            raise ValueError(
                f"data.mix.{number}.root: {mixed.root} is {clips.source.kind} with {len(clips.source.classes)} mask "
                f"values; allowed: the kind and classes of data.root, {first.kind} with {len(first.classes)}"
            )
        sets.append(clips)
    return sets


def clip_order(config: RunConfig, sets: Sequence[TrainingClips]) -> ClipOrder:
    """The order of the clips of `open_training_sets`.

    Raises:
        ValueError: `data.class_balance`, and the data set does not say what its clips hold.
    """
    data = config.data
    categories = [category for clips in sets for category in clips.categories] if data.class_balance else []
    if data.class_balance and not all(categories):
        raise ValueError(
            f"data.class_balance: {sets[0].source.root} does not record the categories of its clips; allowed: 0"
        )
    weights = None
    if any(mixed.weight is not None for mixed in data.mix):
        sizes = [len(clips) for clips in sets]
        weights = [1.0] + [
            size / sizes[0] if mixed.weight is None else mixed.weight
            for size, mixed in zip(sizes[1:], data.mix, strict=True)
        ]
    return ClipOrder(
        sizes=[len(clips) for clips in sets],
        weights=weights,
        categories=categories,
        balance=data.class_balance,
    )


def _with_data_of(config: RunConfig, mixed: MixedSet) -> RunConfig:
    # Folds are of data.root's clips alone.
    whole = {"num_folds": None, "fold": None}
    data = config.data.model_copy(update={"root": mixed.root, "kind": mixed.kind, **whole})
    return config.model_copy(update={"data": data})


def _apportioned(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers that add up to `total`, in the ratio of the weights; the largest remainders are rounded up."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts
