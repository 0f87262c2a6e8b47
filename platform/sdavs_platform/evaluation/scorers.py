"""Distributed evaluation: scores a split with several Ray workers; the figures are bit for bit those of one process.

Workers get consecutive clips, split between batches, so that every batch is the same as in a single process. They
return a separate state for each few clips; merged in the clips' order, the same numbers are summed in the same order.
"""

import copy
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset

from sdavs_model.cpu_memory import keep_freed_memory
from sdavs_model.data.training_clips import collate_clips
from sdavs_model.metrics import Metrics
from sdavs_model.training_step import evaluate
from sdavs_platform.storage.datasets import local_copy

logger = logging.getLogger(__name__)


class GroupedMetrics(Metrics):
    """Separate metrics of the same protocol for each few clips.

    Args:
        empty: metrics to which nothing was added.

    Attributes:
        states: of the complete groups, in order.
        rest: metrics with the clips of an incomplete last group; empty if there are none.
    """

    protocol = "grouped"
    headline = "none"

    def __init__(self, empty: Metrics) -> None:
        self.mode = empty.mode
        self._empty = empty
        self._group_size: int = getattr(empty, "videos_per_batch", 1)
        self._num_added = 0
        self.states: list[Any] = []
        self.rest = copy.deepcopy(empty)

    def add_clip(self, logits: torch.Tensor, clip: Mapping[str, Any]) -> None:
        self.rest.add_clip(logits, clip)
        self._num_added += 1
        if self._num_added % self._group_size == 0:
            self.states.append(self.rest.state())
            self.rest = copy.deepcopy(self._empty)

    def compute(self) -> dict[str, float]:
        return merged([self]).compute()

    def state(self) -> list[Any]:
        return self.states

    def merge(self, state: list[Any]) -> None:
        self.states += state


def merged(parts: Sequence[GroupedMetrics]) -> Metrics:
    """The metrics of consecutive parts of a split; all but the last consist of complete groups."""
    # With the clips of an incomplete group, if there is one: their sums are still 0.
    whole = copy.deepcopy(parts[-1].rest)
    for part in parts:
        for state in part.states:
            whole.merge(state)
    return whole


def cut(num_clips: int, *, num_parts: int, batch_size: int) -> list[range]:
    """Consecutive, non-empty parts of whole batches, whose lengths differ by one batch at most."""
    num_batches = -(-num_clips // batch_size)
    num_parts = max(1, min(num_parts, num_batches))
    edges = [batch_size * (num_batches * part // num_parts) for part in range(num_parts)] + [num_clips]
    return [range(start, end) for start, end in itertools.pairwise(edges)]


def score_part(
    model: Any,
    heard: Dataset[Any],
    part: range,
    *,
    metrics: Metrics,
    device: str | torch.device,
    batch_size: int,
    root: str | None = None,
) -> GroupedMetrics:
    """Score some clips of a split.

    Args:
        metrics: empty ones of the data set's protocol.
        root: address of the data set, if it is in a bucket and has to be copied to this machine first.
    """
    if root is not None:
        local_copy(root)
    batches = DataLoader(Subset(heard, part), batch_size=batch_size, collate_fn=collate_clips)
    grouped = GroupedMetrics(metrics)
    evaluate(model.to(device), batches, device=device, metrics=grouped)
    return grouped


@dataclass(frozen=True, kw_only=True)
class Scorers:
    """Workers among which the clips of every split are divided.

    All nodes need the data set at the same path, or copy it from a bucket.
    """

    num_workers: int
    """Number of workers, this process included if it joins."""
    num_cpus: int = 1
    """CPUs of each worker."""
    use_gpu: bool = False
    joins: bool = False
    """Whether this process scores a part, too: one that holds resources of the cluster must not wait idly for more."""
    root: str | None = None
    """See `score_part`."""
    wait_seconds: float = 30.0
    """Longest wait for free resources; after it this process scores alone."""
    min_clips: int = 1
    """Fewest clips of a worker: a few clips are scored sooner than a process has started."""

    def score(
        self,
        model: Any,
        heard: Dataset[Any],
        *,
        metrics: Metrics,
        device: str | torch.device,
        batch_size: int,
    ) -> Metrics:
        """The metrics of a whole split.

        Args:
            metrics: empty ones of the data set's protocol.
            device: of this process's own part.

        Raises:
            ValueError: a file cannot be read; names it.
        """
        import ray
        from ray.util.placement_group import placement_group, remove_placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        num_clips = len(heard)  # type: ignore[arg-type]
        num_parts = min(self.num_workers, max(1, num_clips // self.min_clips))
        parts = cut(num_clips, num_parts=num_parts, batch_size=batch_size)
        own, others = parts[: int(self.joins)], parts[int(self.joins) :]
        options: dict[str, Any] = {"metrics": metrics, "batch_size": batch_size}
        if not others:
            return merged([score_part(model, heard, part, device=device, **options) for part in own])
        bundle: dict[str, float] = (
            {"CPU": self.num_cpus} if not self.use_gpu else {"CPU": self.num_cpus, "GPU": 1}
        )
        slots = placement_group([bundle] * len(others), strategy="SPREAD")
        try:
            if not slots.wait(self.wait_seconds):
                logger.info(
                    "no free resources for %d more workers; scoring in this process only", len(others)
                )
                return merged([score_part(model, heard, range(num_clips), device=device, **options)])
            task = ray.remote(
                num_cpus=self.num_cpus,
                num_gpus=int(self.use_gpu),
                scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=slots),
            )(_score_part_on_worker)
            shared = ray.put(copy.deepcopy(model).cpu())
            options_there = options | {"device": "cuda" if self.use_gpu else "cpu", "root": self.root}
            running = [task.remote(shared, heard, part, self.num_cpus, options_there) for part in others]
            done = [score_part(model, heard, part, device=device, **options) for part in own]
            try:
                return merged(done + ray.get(running))
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
        finally:
            remove_placement_group(slots)


def _score_part_on_worker(
    model: Any, heard: Dataset[Any], part: range, num_threads: int, options: dict[str, Any]
) -> GroupedMetrics:
    """See `score_part`."""
    torch.set_num_threads(num_threads)
    keep_freed_memory()
    return score_part(model, heard, part, **options)
