"""What every protocol's metrics can do, so that training and reports need not know which one they hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

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
            clip: an item of a `ClipSet`, without its batch dimension.
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


def resized(logits: Tensor, height: int, width: int) -> Tensor:
    """[N, K, h, w] -> [N, K, H, W] float32, bilinear; the size of a stored mask."""
    logits = logits.float()
    if logits.shape[-2:] == (height, width):
        return logits
    return F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
