"""AVSBench-semantic (AVSS): IoU and F of each class in each frame, averaged over the frames in which the class occurs.

Official, with the scripts' quirks:

* A class occurs in a frame if one pixel of the ground truth or of the prediction has it, so a single wrong pixel adds
  a zero to its class.
* The mean runs over all classes; one that never occurred counts as 0.
* All frames count: the padding of short clips is background in ground truth and prediction (an IoU of 1 for the
  background), and frames without a mask are background in the ground truth.
* "miou_no_background" leaves out the last class, not the background.

Corrected: padding, frames without a mask and classes that never occur are left out, and "miou_no_background" leaves
out the background.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sdavs_model.metrics.base import BETA_SQUARED, Metrics, Mode


class SemanticMetrics(Metrics):
    """mIoU and F-score per frame and class; keeps three numbers a class."""

    protocol = "semantic"
    headline = "miou"

    def __init__(self, *, num_classes: int, mode: Mode = "official") -> None:
        self.mode: Mode = mode
        self.num_classes = num_classes
        self._sums = torch.zeros(3, num_classes, dtype=torch.float64)  # IoU, F, number of frames

    def add_clip(self, logits: Tensor, clip: Mapping[str, Any]) -> None:
        """Add one clip, [T, K, S, S]."""
        masks, valid, present = (clip[key].to(logits.device) for key in ("masks", "valid", "present"))
        predicted = logits.argmax(1)
        if self.mode == "official":
            self.update(predicted * present[:, None, None], masks)
        elif bool(valid.any()):
            self.update(predicted[valid], masks[valid])

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Add frames.

        Args:
            predicted: [N, H, W] class indices.
            target: [N, H, W] class indices.

        Raises:
            ValueError: shapes differ, or the target holds an index beyond the classes.
        """
        if predicted.shape != target.shape or predicted.ndim != 3:
            raise ValueError(
                f"update() needs predicted and target of the same shape [N, H, W]; "
                f"got {list(predicted.shape)} and {list(target.shape)}"
            )
        if int(target.max()) >= self.num_classes:
            raise ValueError(f"target: value {int(target.max())}; allowed: 0 ... {self.num_classes - 1}")
        num_predicted, num_true = self._areas(predicted), self._areas(target)
        # Wrong pixels go to a class beyond the last, which is not counted.
        intersection = self._areas(torch.where(predicted == target, target, self.num_classes))
        union = num_predicted + num_true - intersection
        iou = intersection / union.clamp_min(1)
        # F = (1 + b2) P R / (b2 P + R), and 0 where that is 0 / 0; with the divisions multiplied out.
        fscore = (1 + BETA_SQUARED) * intersection / (BETA_SQUARED * num_true + num_predicted).clamp_min(1e-9)
        self._sums += torch.stack([iou.sum(0), fscore.sum(0), (union > 0).sum(0)]).cpu()

    def compute(self) -> dict[str, float]:
        """{"miou", "fscore", "miou_no_background"}, in [0, 1].

        Raises:
            ValueError: no frame was added.
        """
        if not self._sums[2].any():
            raise ValueError("compute() before any update(): no frame was evaluated")
        iou, fscore = self._sums[:2] / self._sums[2].clamp_min(1)
        if self.mode == "official":
            foreground = slice(None, -1)
            counted = torch.ones(self.num_classes, dtype=torch.bool)
        else:
            foreground = slice(1, None)
            counted = self._sums[2] > 0
        scores = {"miou": iou[counted], "fscore": fscore[counted]}
        scores["miou_no_background"] = iou[foreground][counted[foreground]]
        return {name: float(values.mean()) if len(values) else 0.0 for name, values in scores.items()}

    def state(self) -> Tensor:
        """[3, K] float64, the sums behind `compute`."""
        return self._sums.clone()

    def merge(self, state: Tensor) -> None:
        """Add another worker's `state()`."""
        self._sums += state

    def _areas(self, indices: Tensor) -> Tensor:
        """[N, H, W] indices 0 ... K -> [N, K] float64, pixels of each class in each frame; K is not counted."""
        bins = self.num_classes + 1
        frame = torch.arange(len(indices), device=indices.device)[:, None, None]
        counts = torch.bincount((frame * bins + indices).flatten(), minlength=len(indices) * bins)
        return counts.view(len(indices), bins)[:, :-1].double()
