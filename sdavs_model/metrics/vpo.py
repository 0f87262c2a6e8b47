"""VPO: mIoU, F-score and false discovery rate of the whole split, from one confusion matrix.

Every picture is answered once, at the size of its stored mask; where a clip shows a picture for several seconds the
logits are averaged (our choice). Pixels of 255 count nowhere.

Official: mIoU runs over all 22 classes, one that never occurs counts as 0; F and FDR leave out classes for which they
are 0 / 0; all figures are rounded to four decimals. Corrected: mIoU leaves such classes out, too, and nothing is
rounded.

These figures are dataset-level and much higher than the per-video ones of AVSBench for the same model; never compare
the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sdavs_model.data.core.clip import IGNORED
from sdavs_model.masks import masks_at_size
from sdavs_model.metrics.base import BETA_SQUARED, Metrics, Mode


class VPOMetrics(Metrics):
    """Streaming; holds one confusion matrix."""

    protocol = "vpo"
    headline = "miou"

    def __init__(self, *, num_classes: int, mode: Mode = "official") -> None:
        self.mode: Mode = mode
        self.num_classes = num_classes
        self._confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)  # [true, answered]

    def add_clip(self, logits: Tensor, clip: Mapping[str, Any]) -> None:
        """Add one picture: [T, K, S, S], and its mask at the stored size."""
        mask = clip["full_masks"][0].to(logits.device)
        answer = masks_at_size(logits.float().mean(0, keepdim=True), size=tuple(mask.shape))
        self.update(answer.classes[0], mask)

    def update(self, answer: Tensor, target: Tensor) -> None:
        """Add pixels.

        Args:
            answer: [...] class indices.
            target: the same shape; 255 is left out.

        Raises:
            ValueError: the target holds an index beyond the classes.
        """
        counted = target != IGNORED
        answer, target = answer[counted].long(), target[counted].long()
        if len(target) and int(target.max()) >= self.num_classes:
            raise ValueError(f"target: value {int(target.max())}; allowed: 0 ... {self.num_classes - 1}, 255")
        pairs = torch.bincount(target * self.num_classes + answer, minlength=self.num_classes**2)
        self._confusion += pairs.view(self.num_classes, -1).cpu()

    def compute(self) -> dict[str, float]:
        """{"miou", "fscore", "fdr"}, in [0, 1]; fdr, the false discovery rate, is better when lower.

        Raises:
            ValueError: no pixel was added.
        """
        if not self._confusion.any():
            raise ValueError("compute() before any update(): no picture was evaluated")
        confusion = self._confusion.double()
        hits = confusion.diag()
        false_alarms, misses = confusion.sum(0) - hits, confusion.sum(1) - hits
        # 0 / 0 is nan: a class that never occurs.
        iou = hits / (hits + false_alarms + misses)
        weighted = (1 + BETA_SQUARED) * hits
        scores = {
            "miou": (iou.nan_to_num(0) if self.mode == "official" else iou).nanmean(),
            "fscore": (weighted / (weighted + BETA_SQUARED * misses + false_alarms)).nanmean(),
            "fdr": (false_alarms / (false_alarms + hits)).nanmean(),
        }
        digits = 4 if self.mode == "official" else 15
        return {name: round(float(value), digits) for name, value in scores.items()}

    def state(self) -> Tensor:
        """[K, K] int64, the confusion matrix."""
        return self._confusion.clone()

    def merge(self, state: Tensor) -> None:
        """Add another worker's `state()`."""
        self._confusion += state
