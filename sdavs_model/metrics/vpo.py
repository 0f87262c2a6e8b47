"""VPO: mIoU, F-score and false discovery rate of the whole split, from one confusion matrix.

Every image is predicted once and scored at the size of its stored mask; where a clip shows an image for several
seconds the logits are averaged (our choice). Pixels of value 255 are ignored.

Official: mIoU is the mean over all 22 classes, a class that never occurs counts as 0; F and FDR leave out classes for
which they are 0 / 0; all figures are rounded to four decimals. Corrected: mIoU leaves out such classes, too, and
nothing is rounded.

These figures are dataset-level and much higher than AVSBench's per-video figures of the same model. Do not compare
the two.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sdavs_model.data.core.clip import IGNORED
from sdavs_model.masks import masks_at_size
from sdavs_model.metrics.base import BETA_SQUARED, Metrics, Mode


class VPOMetrics(Metrics):
    """mIoU, F-score and FDR of a split; keeps one confusion matrix."""

    protocol = "vpo"
    headline = "miou"

    def __init__(self, *, num_classes: int, mode: Mode = "official") -> None:
        self.mode: Mode = mode
        self.num_classes = num_classes
        self._confusion = torch.zeros(
            num_classes, num_classes, dtype=torch.int64
        )  # [ground truth, predicted]

    def add_clip(self, logits: Tensor, clip: Mapping[str, Any]) -> None:
        """Add one image: logits [T, K, S, S], and its mask at the stored size."""
        mask = clip["full_masks"][0].to(logits.device)
        predicted = masks_at_size(logits.float().mean(0, keepdim=True), size=tuple(mask.shape))
        self.update(predicted.classes[0], mask)

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Add pixels.

        Args:
            predicted: [...] class indices.
            target: the same shape; 255 is ignored.

        Raises:
            ValueError: the target holds an index beyond the classes.
        """
        counted = target != IGNORED
        predicted, target = predicted[counted].long(), target[counted].long()
        if len(target) and int(target.max()) >= self.num_classes:
            raise ValueError(f"target: value {int(target.max())}; allowed: 0 ... {self.num_classes - 1}, 255")
        pairs = torch.bincount(target * self.num_classes + predicted, minlength=self.num_classes**2)
        self._confusion += pairs.view(self.num_classes, -1).cpu()

    def compute(self) -> dict[str, float]:
        """{"miou", "fscore", "fdr"}, in [0, 1]; lower is better for fdr, the false discovery rate.

        Raises:
            ValueError: no pixel was added.
        """
        if not self._confusion.any():
            raise ValueError("compute() before any update(): no image was evaluated")
        confusion = self._confusion.double()
        true_positives = confusion.diag()
        false_positives, false_negatives = (
            confusion.sum(0) - true_positives,
            confusion.sum(1) - true_positives,
        )
        # 0 / 0 is nan: a class that never occurs.
        iou = true_positives / (true_positives + false_positives + false_negatives)
        weighted = (1 + BETA_SQUARED) * true_positives
        scores = {
            "miou": (iou.nan_to_num(0) if self.mode == "official" else iou).nanmean(),
            "fscore": (weighted / (weighted + BETA_SQUARED * false_negatives + false_positives)).nanmean(),
            "fdr": (false_positives / (false_positives + true_positives)).nanmean(),
        }
        digits = 4 if self.mode == "official" else 15
        return {name: round(float(value), digits) for name, value in scores.items()}

    def state(self) -> Tensor:
        """[K, K] int64, the confusion matrix."""
        return self._confusion.clone()

    def merge(self, state: Tensor) -> None:
        """Add another worker's `state()`."""
        self._confusion += state
