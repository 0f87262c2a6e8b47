"""Figures that show whether a model listens: AVSBench-Robust's protocol, and the score of a perfect but deaf model."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sdavs_model.metrics.object import ObjectMetrics

POSITIVE = "right"
NEGATIVES = ("silence", "noise", "off-screen")
SURE = 10.0
"""Logit of a pixel of a known mask; its sigmoid exceeds every threshold but the last of F."""


class RobustMetrics:
    """AVSBench-Robust (Li et al. 2025, arXiv 2502.00358): scores with a clip's own sound and with three others.

    Every clip is scored four times against its own masks: with its own sound ("right"), and with sounds that nothing
    in the picture makes ("silence", white "noise", and an "off-screen" sound of another category). For each sound:

    * "miou" and "fscore" are M_J and M_F of AVSBench-object. With a negative sound lower is better: the authors' test
      sets keep the masks, so the figures say how much of the now silent objects is still segmented.
    * "fpr", the false positive rate, is the mean over all frames of the fraction of pixels with sigmoid > 0.5.

    The combined figures of the paper are computed in a spreadsheet and their formulas are not published with the code.
    Our definitions, N being the mean over the three negative sounds:

    * "g_miou" = 2 P (1 - N) / (P + 1 - N), the harmonic mean of P = miou with the clip's own sound and 1 - N(miou);
      "g_fscore" likewise. A deaf model, P = N, reaches at most 0.5, which it does at P = 0.5.
    * "g_fpr" = N(fpr); lower is better.

    Args:
        videos_per_batch: see `ObjectMetrics`.
    """

    def __init__(self, *, videos_per_batch: int = 1) -> None:
        sounds = (POSITIVE, *NEGATIVES)
        self._object = {sound: ObjectMetrics(videos_per_batch=videos_per_batch) for sound in sounds}
        self._false_positives = dict.fromkeys(sounds, 0.0)
        self._num_frames = dict.fromkeys(sounds, 0)

    def update(self, sound: str, logits: Tensor, target: Tensor) -> None:
        """Add one video under one sound.

        Args:
            sound: "right", "silence", "noise" or "off-screen".
            logits: [N, H, W], before the sigmoid.
            target: [N, H, W] of {0, 1}, the video's own masks.

        Raises:
            ValueError: as `ObjectMetrics.update`.
        """
        self._object[sound].update(logits, target)
        self._false_positives[sound] += float(marked_fraction(logits.detach().float().sigmoid()).sum())
        self._num_frames[sound] += len(logits)

    def compute(self) -> dict[str, dict[str, float]]:
        """{sound: {"miou", "fscore", "fpr"}} and {"combined": {"g_miou", "g_fscore", "g_fpr"}}, all in [0, 1].

        Raises:
            ValueError: no video was added under one of the sounds.
        """
        scores = {
            sound: metrics.compute() | {"fpr": self._false_positives[sound] / self._num_frames[sound]}
            for sound, metrics in self._object.items()
        }
        return scores | {"combined": combined_scores(scores)}


def combined_scores(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """{"g_miou", "g_fscore", "g_fpr"} of the scores under the four sounds; definitions in `RobustMetrics`."""
    negative = {
        name: sum(scores[sound][name] for sound in NEGATIVES) / len(NEGATIVES)
        for name in ("miou", "fscore", "fpr")
    }
    combined = {
        f"g_{name}": _harmonic_mean(scores[POSITIVE][name], 1 - negative[name]) for name in ("miou", "fscore")
    }
    return combined | {"g_fpr": negative["fpr"]}


def marked_fraction(probability: Tensor) -> Tensor:
    """The fraction of each frame's pixels that are predicted to sound, at threshold 0.5: [T, H, W] -> [T].

    In frames in which nothing visible sounds all of them are false positives: their mean over such frames is the false
    sounding rate. J of such a frame is 1 minus this fraction.
    """
    return (probability > 0.5).float().mean((-2, -1))


def deaf_oracle_logits(visible: Tensor) -> Tensor:
    """The prediction of a model that segments every visible object perfectly and hears nothing.

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
