"""AVSBench-object (S4, MS3): the mean Jaccard index M_J and F-score M_F, video by video.

Official, with the scripts' quirks:

* J thresholds the sigmoid at 0.5. A frame without a sounding object scores the share of its pixels that are
  background in both, so an empty answer there is worth 1, and a small mistake almost as much.
* F skips such frames. The F curves over 255 thresholds are averaged over the frames of one video, the best
  threshold is taken per video, and a video without any sounding frame counts as 0.
* Both are averaged over videos with equal weight (the official test uses a batch of one video).

Corrected: one threshold, 0.5, for both. A frame without a sounding object scores 1 for an empty answer and 0 for any
other, in J and in F (DAVIS's rule); every video counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sdavs_model.metrics.base import BETA_SQUARED, Metrics, Mode

NUM_THRESHOLDS = 255
EPS_IOU = 1e-7
EPS_PR = 1e-20


class ObjectMetrics(Metrics):
    """Streaming M_J and M_F; holds four numbers, whatever the size of the data set."""

    protocol = "object"
    headline = "miou"

    def __init__(self, *, mode: Mode = "official") -> None:
        self.mode: Mode = mode
        self._sum_iou = 0.0
        self._sum_fscore = 0.0
        self._num_videos = 0

    def add_clip(self, logits: Tensor, clip: Mapping[str, Any]) -> None:
        """Add the annotated frames of one clip, [T, 1, S, S]."""
        valid = clip["valid"].to(logits.device)
        if bool(valid.any()):
            self.update(logits[valid, 0], (clip["masks"].to(logits.device)[valid] > 0).float())

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add one video.

        Args:
            logits: [N, H, W], before the sigmoid.
            target: [N, H, W] of {0, 1}.

        Raises:
            ValueError: shapes differ, there is no frame, or the target holds other values.
        """
        if logits.shape != target.shape or logits.ndim != 3 or not len(logits):
            raise ValueError(
                f"update() takes logits and target of one shape [N, H, W], N > 0; "
                f"got {list(logits.shape)} and {list(target.shape)}"
            )
        target = target.float()
        if not bool(((target == 0) | (target == 1)).all()):
            raise ValueError("target: values other than 0 and 1")
        probability = logits.detach().float().sigmoid()
        if self.mode == "official":
            self._sum_iou += mask_iou(probability, target)
            self._sum_fscore += best_fscore(probability, target)
        else:
            iou, fscore = plain_scores(probability > 0.5, target > 0)
            self._sum_iou += iou
            self._sum_fscore += fscore
        self._num_videos += 1

    def compute(self) -> dict[str, float]:
        """{"miou": M_J, "fscore": M_F}, both in [0, 1].

        Raises:
            ValueError: no video was added.
        """
        if not self._num_videos:
            raise ValueError("compute() before any update(): no video was evaluated")
        return {"miou": self._sum_iou / self._num_videos, "fscore": self._sum_fscore / self._num_videos}

    def state(self) -> list[float]:
        """The sums behind `compute`, for `merge` in another worker."""
        return [self._sum_iou, self._sum_fscore, float(self._num_videos)]

    def merge(self, state: list[float]) -> None:
        """Add another worker's `state()`; the order of merging does not matter."""
        self._sum_iou += state[0]
        self._sum_fscore += state[1]
        self._num_videos += int(state[2])


def mask_iou(probability: Tensor, target: Tensor) -> float:
    """Mean IoU over the frames of one video. probability, target: [N, H, W]."""
    predicted = (probability > 0.5).float()
    num_pixels = target.shape[-1] * target.shape[-2]
    inter = (predicted * target).sum((1, 2))
    union = torch.maximum(predicted, target).sum((1, 2))
    silent = target.sum((1, 2)) == 0
    inter = torch.where(silent, ((1 - target) * (1 - predicted)).sum((1, 2)), inter)
    union = torch.where(silent, torch.full_like(union, num_pixels), union)
    return float((inter / (union + EPS_IOU)).sum() / len(target))


def best_fscore(probability: Tensor, target: Tensor) -> float:
    """The largest mean F over 255 thresholds for one video. probability, target: [N, H, W]."""
    thresholds = torch.linspace(0, 1 - 1e-10, NUM_THRESHOLDS, device=probability.device)
    curves = [
        _fscore_curve(p, t, thresholds) for p, t in zip(probability, target, strict=True) if t.mean() != 0
    ]
    return float(torch.stack(curves).mean(0).max()) if curves else 0.0


def plain_scores(predicted: Tensor, target: Tensor) -> tuple[float, float]:
    """Mean IoU and mean F over the frames of one video, both 1 where both masks are empty. [N, H, W] bool."""
    predicted, target = predicted.flatten(1), target.flatten(1)
    hits = (predicted & target).sum(1).double()
    num_predicted, num_true = predicted.sum(1).double(), target.sum(1).double()
    empty = (num_predicted + num_true) == 0
    iou = torch.where(empty, 1.0, hits / (num_predicted + num_true - hits).clamp_min(1))
    # F = (1 + b2) P R / (b2 P + R) with the divisions by zero multiplied out.
    fscore = (1 + BETA_SQUARED) * hits / (BETA_SQUARED * num_true + num_predicted).clamp_min(EPS_PR)
    return float(iou.mean()), float(torch.where(empty, 1.0, fscore).mean())


def _fscore_curve(probability: Tensor, target: Tensor, thresholds: Tensor) -> Tensor:
    """F at every threshold from one histogram: a pixel counts at each threshold at or below its probability."""
    passed = torch.searchsorted(thresholds, probability.flatten(), right=True)  # thresholds passed, 0 ... 255
    bins = len(thresholds) + 1
    num_predicted = torch.bincount(passed, minlength=bins).flip(0).cumsum(0).flip(0)[1:].float()
    hits = torch.bincount(passed[target.flatten() > 0], minlength=bins).flip(0).cumsum(0).flip(0)[1:].float()
    precision, recall = hits / (num_predicted + EPS_PR), hits / (target.sum() + EPS_PR)
    fscore = (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
    return torch.nan_to_num(fscore, nan=0.0)
