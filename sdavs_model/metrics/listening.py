"""Figures that show whether a model listens: AVSBench-Robust's protocol, and the score of a perfect but deaf model."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sdavs_model.metrics.base import Mode
from sdavs_model.metrics.object import ObjectMetrics, mask_iou, plain_scores

POSITIVE = "right"
NEGATIVES = ("silence", "noise", "off-screen")
SURE = 10.0
"""Logit of a pixel of a known mask; its sigmoid exceeds every threshold but the last of F."""


class SoundMetrics(ObjectMetrics):
    """M_J and M_F under one sound, whatever it is, with the false positive rate and J of each clip.

    "fpr", the false positive rate of AVSBench-Robust, is the mean over all frames of the fraction of pixels with
    sigmoid > 0.5. Under the clip's own sound that is the marked fraction, of which most should be right.

    Args:
        mode, videos_per_batch: see `ObjectMetrics`.

    Attributes:
        clip_miou: {clip: J}, of each clip on its own and in the mode's definition.
    """

    def __init__(self, *, mode: Mode = "official", videos_per_batch: int = 1) -> None:
        super().__init__(mode=mode, videos_per_batch=videos_per_batch)
        self.clip_miou: dict[str, float] = {}
        self._sum_marked = 0.0
        self._num_frames = 0

    def add_clip(self, logits: Tensor, clip: Mapping[str, Any]) -> None:
        super().add_clip(logits, clip)
        valid = clip["valid"].to(logits.device)
        if bool(valid.any()):
            probability = logits[valid, 0].detach().float().sigmoid()
            target = (clip["masks"].to(logits.device)[valid] > 0).float()
            self.clip_miou[clip["name"]] = clip_iou(probability, target, mode=self.mode)

    def update(self, logits: Tensor, target: Tensor) -> None:
        super().update(logits, target)
        self._sum_marked += float(marked_fraction(logits.detach().float().sigmoid()).sum())
        self._num_frames += len(logits)

    def compute(self) -> dict[str, float]:
        """{"miou", "fscore", "fpr"}, all in [0, 1].

        Raises:
            ValueError: no video was added.
        """
        return super().compute() | {"fpr": self._sum_marked / self._num_frames}

    def state(self) -> Any:
        return [super().state(), self._sum_marked, self._num_frames, self.clip_miou]

    def merge(self, state: Any) -> None:
        base, sum_marked, num_frames, clip_miou = state
        super().merge(base)
        self._sum_marked += sum_marked
        self._num_frames += num_frames
        self.clip_miou |= clip_miou


def clip_iou(probability: Tensor, target: Tensor, *, mode: Mode = "official") -> float:
    """J of one clip. probability, target: [T, H, W]."""
    return (
        mask_iou(probability, target)
        if mode == "official"
        else plain_scores(probability > 0.5, target > 0)[0]
    )


def combined_scores(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The combined figures of AVSBench-Robust (Li et al. 2025, arXiv 2502.00358).

    Every clip is scored four times against its own masks: with its own sound ("right"), and with sounds that nothing
    in the picture makes ("silence", white "noise", and an "off-screen" sound of another category). With a negative
    sound lower is better: the authors' test sets keep the masks, so J and F say how much of the now silent objects is
    still segmented.

    The combined figures of the paper are computed in a spreadsheet and their formulas are not published with the code.
    Our definitions, N being the mean over the three negative sounds:

    * "g_miou" = 2 P (1 - N) / (P + 1 - N), the harmonic mean of P = miou with the clip's own sound and 1 - N(miou);
      "g_fscore" likewise. A deaf model, P = N, reaches at most 0.5, which it does at P = 0.5.
    * "g_fpr" = N(fpr); lower is better.

    Args:
        scores: of `SoundMetrics`, by sound: `POSITIVE` and all `NEGATIVES`.

    Returns:
        {"g_miou", "g_fscore", "g_fpr"}, all in [0, 1].
    """
    negative = {
        name: sum(scores[sound][name] for sound in NEGATIVES) / len(NEGATIVES)
        for name in ("miou", "fscore", "fpr")
    }
    combined = {
        f"g_{name}": _harmonic_mean(scores[POSITIVE][name], 1 - negative[name]) for name in ("miou", "fscore")
    }
    return combined | {"g_fpr": negative["fpr"]}


def listening_scores(*, miou: float, miou_swapped: float) -> dict[str, float]:
    """{"miou_swapped", "listening"}: J with swapped sound, and the criterion J + (J - J swapped), in [-1, 2].

    Our choice for selecting checkpoints: a deaf model gains nothing from the second term, and one that gains a point of
    J by listening gains two. J is part of it, because a model that marks nothing has no gap either.
    """
    return {"miou_swapped": miou_swapped, "listening": 2 * miou - miou_swapped}


def marked_fraction(probability: Tensor) -> Tensor:
    """The fraction of each frame's pixels that are predicted to sound, at threshold 0.5: [T, H, W] -> [T].

    In frames in which nothing visible sounds all of them are false positives: their mean over such frames is the false
    sounding rate. J of such a frame is 1 minus this fraction.
    """
    return (probability > 0.5).float().mean((-2, -1))


def deaf_oracle_logits(visible: Tensor) -> Tensor:
    """The prediction of a model that segments every visible object perfectly and ignores the sound.

    Scored by `ObjectMetrics` against what sounds, it is the most that can be reached by marking all that may sound:
    a model that listens has to score more.

    Args:
        visible: [T, H, W] of {0, 1}, the pixels of all objects, sounding or silent.

    Returns:
        Logits [T, H, W], `SURE` on the objects and -`SURE` elsewhere.
    """
    return torch.where(visible > 0, SURE, -SURE)


def _harmonic_mean(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b > 0 else 0.0
