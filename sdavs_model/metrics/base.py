"""The interface that the metrics of every protocol share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

Mode = Literal["official", "corrected"]
"""official: the figures of the published scripts to 1e-6, quirks included. corrected: the same without the quirks."""

BETA_SQUARED = 0.3
"""beta^2 of every F-score in audio-visual segmentation."""


class Metrics(ABC):
    """Scores of one split under one protocol, accumulated clip by clip."""

    protocol: ClassVar[str]
    headline: ClassVar[str]
    """The figure by which checkpoints are chosen; larger is better."""
    mode: Mode

    @abstractmethod
    def add_clip(self, logits: Tensor, clip: Mapping[str, Any]) -> None:
        """Add one clip.

        Args:
            logits: [T, K, S, S], on any device.
            clip: an item of `TrainingClips`, without batch dimension.
        """

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The scores by name, in [0, 1].

        Raises:
            ValueError: nothing was added.
        """

    @abstractmethod
    def state(self) -> Any:
        """Everything that `compute` needs, picklable, for `merge` in another worker."""

    @abstractmethod
    def merge(self, state: Any) -> None:
        """Add another worker's `state()`; the order of merging does not matter."""


LABELS = {
    "miou": "J",
    "fscore": "F",
    "miou_swapped": "J swapped",
    "listening": "J + gap",
    "fpr": "FPR",
    "fdr": "FDR",
    "miou_no_background": "J without background",
    "fsla": "FSLA",
    "fsla_none": "FSLA, silent frames",
    "fsla_single": "FSLA, one source",
    "fsla_multi": "FSLA, several",
    "hota": "HOTA",
    "map": "mAP",
}
"""How tables and logs name each figure."""


def format_scores(scores: Mapping[str, float]) -> str:
    """Scores on one line, such as "J 0.398 F 0.503"."""
    return " ".join(f"{LABELS[name]} {value:.3f}" for name, value in scores.items())
