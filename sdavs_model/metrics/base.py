"""What every protocol's metrics can do, so that training and reports need not know which one they hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

Mode = Literal["official", "corrected"]
"""official: the published scripts' numbers to 1e-6, with their quirks. corrected: the same without the quirks."""

BETA_SQUARED = 0.3
"""Of every F-score of this field."""


class Metrics(ABC):
    """Streaming scores of one split under one protocol."""

    protocol: ClassVar[str]
    headline: ClassVar[str]
    """The figure that chooses checkpoints; larger is better."""
    mode: Mode

    @abstractmethod
    def add_clip(self, logits: Tensor, clip: Mapping[str, Any]) -> None:
        """Add one clip.

        Args:
            logits: [T, K, S, S], of any device.
            clip: an item of `TrainingClips`, without its batch dimension.
        """

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The scores, in [0, 1]. Raises ValueError if nothing was added."""

    @abstractmethod
    def state(self) -> Any:
        """All that `compute` needs, picklable, for `merge` in another worker."""

    @abstractmethod
    def merge(self, state: Any) -> None:
        """Add another worker's `state()`; the order of merging does not matter."""


LABELS = {
    "miou": "J",
    "fscore": "F",
    "fdr": "FDR",
    "miou_no_background": "J without background",
    "fsla": "FSLA",
    "fsla_none": "FSLA, silent frames",
    "fsla_single": "FSLA, one source",
    "fsla_multi": "FSLA, several",
    "hota": "HOTA",
    "map": "mAP",
}
"""What a person reads for each figure."""


def in_words(scores: Mapping[str, float]) -> str:
    """One line of figures, such as "J 0.398 F 0.503"."""
    return " ".join(f"{LABELS[name]} {value:.3f}" for name, value in scores.items())
