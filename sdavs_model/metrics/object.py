"""AVSBench-object (S4, MS3): the mean Jaccard index M_J and F-score M_F.

Official, with the scripts' quirks. The scripts score batches of `videos_per_batch` consecutive videos and average over
the batches with equal weight, also of the last, smaller one:

* J thresholds the sigmoid at 0.5 and is the mean IoU of the batch's frames. The IoU of a frame without a sounding
  object is the fraction of its pixels that are background in both masks: 1 for an empty prediction, and little less
  for a small false positive.
* F leaves out such frames. The F curves over 255 thresholds are averaged over the frames of the batch, and the largest
  value of that mean curve counts; a batch without any sounding object counts as 0.

The best threshold is thus one for all videos of a batch, and F falls when batches grow: compare figures of the same
`videos_per_batch` only. Published F-scores are over 4 videos (`--test_batch_size 4` in AVSBench's test.sh) or 2
(AVSegFormer's configs); M_J hardly depends on it. The default is 1, each video's own best threshold.

Corrected: one threshold, 0.5, for both. A frame without a sounding object scores 1 for an empty prediction and 0 for
any other, in J and in F (DAVIS's rule); every video counts, with equal weight.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sdavs_model.metrics.base import BETA_SQUARED, Metrics, Mode

NUM_THRESHOLDS = 255
EPS_IOU = 1e-7
EPS_PR = 1e-20


class ObjectMetrics(Metrics):
    """M_J and M_F of a split; keeps three numbers and the videos of an incomplete batch.

    Args:
        videos_per_batch: official mode only: how many consecutive videos share a best threshold.
        fscore: official mode only: False leaves M_F out, which takes most of the time; it is then 0.

    Raises:
        ValueError: a `videos_per_batch` below 1, or other than 1 in the corrected mode.
    """

    protocol = "object"
    headline = "miou"

    def __init__(self, *, mode: Mode = "official", videos_per_batch: int = 1, fscore: bool = True) -> None:
        if videos_per_batch < 1:
            raise ValueError(f"videos_per_batch: {videos_per_batch} is not allowed; allowed: 1 or more")
        if videos_per_batch > 1 and mode == "corrected":
            raise ValueError(
                f"videos_per_batch: {videos_per_batch} has no effect in the corrected mode, which uses one threshold"
            )
        self.mode: Mode = mode
        self.videos_per_batch = videos_per_batch
        self._fscore = fscore
        self._sum_iou = 0.0
        self._sum_fscore = 0.0
        self._num_batches = 0
        self._batch: list[
            tuple[Tensor, Tensor]
        ] = []  # probability and target of the videos of an incomplete batch

    def add_clip(self, logits: Tensor, clip: Mapping[str, Any]) -> None:
        """Add the annotated frames of one clip, [T, 1, S, S]."""
        valid = clip["valid"].to(logits.device)
        if bool(valid.any()):
            self.update(logits[valid, 0], (clip["masks"].to(logits.device)[valid] > 0).float())

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add one video.

        Args:
            logits: [N, H, W], before the sigmoid; H and W are the same for all videos of a batch.
            target: [N, H, W] of {0, 1}.

        Raises:
            ValueError: shapes differ, there is no frame, or the target holds other values.
        """
        if logits.shape != target.shape or logits.ndim != 3 or not len(logits):
            raise ValueError(
                f"update() needs logits and target of the same shape [N, H, W], N > 0; "
                f"got {list(logits.shape)} and {list(target.shape)}"
            )
        target = target.float()
        if not bool(((target == 0) | (target == 1)).all()):
            raise ValueError("target: values other than 0 and 1")
        self._batch.append((logits.detach().float().sigmoid(), target))
        if len(self._batch) == self.videos_per_batch:
            iou, fscore = self._batch_scores()
            self._sum_iou += iou
            self._sum_fscore += fscore
            self._num_batches += 1
            self._batch = []

    def compute(self) -> dict[str, float]:
        """{"miou": M_J, "fscore": M_F}, both in [0, 1].

        Raises:
            ValueError: no video was added.
        """
        iou, fscore = self._batch_scores() if self._batch else (0.0, 0.0)
        num_batches = self._num_batches + bool(self._batch)
        if not num_batches:
            raise ValueError("compute() before any update(): no video was evaluated")
        return {
            "miou": (self._sum_iou + iou) / num_batches,
            "fscore": (self._sum_fscore + fscore) / num_batches,
        }

    def state(self) -> list[float]:
        """The sums behind `compute`, for `merge` in another worker.

        Raises:
            ValueError: the last batch is incomplete; batches span workers only with `videos_per_batch=1`.
        """
        if self._batch:
            raise ValueError(
                f"videos_per_batch: the last batch holds {len(self._batch)} of {self.videos_per_batch} videos; "
                "score the split in one process, or use 1"
            )
        return [self._sum_iou, self._sum_fscore, float(self._num_batches)]

    def merge(self, state: list[float]) -> None:
        """Add another worker's `state()`; the order of merging does not matter."""
        self._sum_iou += state[0]
        self._sum_fscore += state[1]
        self._num_batches += int(state[2])

    def _batch_scores(self) -> tuple[float, float]:
        """J and F of the collected videos."""
        probability, target = (torch.cat(parts) for parts in zip(*self._batch, strict=True))
        if self.mode == "official":
            return mask_iou(probability, target), best_fscore(probability, target) if self._fscore else 0.0
        return plain_scores(probability > 0.5, target > 0)


def mask_iou(probability: Tensor, target: Tensor) -> float:
    """Mean official IoU over frames. probability, target: [N, H, W]."""
    predicted = (probability > 0.5).float()
    num_pixels = target.shape[-1] * target.shape[-2]
    inter = (predicted * target).sum((1, 2))
    union = torch.maximum(predicted, target).sum((1, 2))
    silent = target.sum((1, 2)) == 0
    inter = torch.where(silent, ((1 - target) * (1 - predicted)).sum((1, 2)), inter)
    union = torch.where(silent, torch.full_like(union, num_pixels), union)
    return float((inter / (union + EPS_IOU)).sum() / len(target))


def best_fscore(probability: Tensor, target: Tensor) -> float:
    """Largest value of the mean F curve of the frames over 255 thresholds. probability, target: [N, H, W]."""
    thresholds = torch.linspace(0, 1 - 1e-10, NUM_THRESHOLDS, device=probability.device)
    curves = [
        _fscore_curve(p, t, thresholds) for p, t in zip(probability, target, strict=True) if t.mean() != 0
    ]
    return float(torch.stack(curves).mean(0).max()) if curves else 0.0


def plain_scores(predicted: Tensor, target: Tensor) -> tuple[float, float]:
    """Mean IoU and mean F over frames, both 1 where both masks are empty. predicted, target: [N, H, W] bool."""
    predicted, target = predicted.flatten(1), target.flatten(1)
    intersection = (predicted & target).sum(1).double()
    num_predicted, num_true = predicted.sum(1).double(), target.sum(1).double()
    empty = (num_predicted + num_true) == 0
    iou = torch.where(empty, 1.0, intersection / (num_predicted + num_true - intersection).clamp_min(1))
    # F = (1 + b2) P R / (b2 P + R) with the divisions by zero multiplied out.
    fscore = (1 + BETA_SQUARED) * intersection / (BETA_SQUARED * num_true + num_predicted).clamp_min(EPS_PR)
    return float(iou.mean()), float(torch.where(empty, 1.0, fscore).mean())


def _fscore_curve(probability: Tensor, target: Tensor, thresholds: Tensor) -> Tensor:
    """[255] F of one frame at every threshold, from one histogram: a pixel passes all thresholds up to its value."""
    passed = torch.searchsorted(
        thresholds, probability.flatten(), right=True
    )  # number of thresholds passed, 0 ... 255
    bins = len(thresholds) + 1
    num_predicted = torch.bincount(passed, minlength=bins).flip(0).cumsum(0).flip(0)[1:].float()
    intersection = (
        torch.bincount(passed[target.flatten() > 0], minlength=bins).flip(0).cumsum(0).flip(0)[1:].float()
    )
    precision, recall = intersection / (num_predicted + EPS_PR), intersection / (target.sum() + EPS_PR)
    fscore = (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
    return torch.nan_to_num(fscore, nan=0.0)
