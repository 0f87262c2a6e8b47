"""The outputs of both encoders for a batch of clips: all that the rest of a model needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

NUM_LEVELS = 4
EMBEDDINGS = "embeddings"
MAPS = tuple(f"map_{level}" for level in range(NUM_LEVELS))


@dataclass(frozen=True, kw_only=True)
class Features:
    """Encoded clips."""

    maps: list[Tensor]
    """F_v of stride 4, 8, 16 and 32: each [B, T, C_i, H_i, W_i]."""
    embeddings: Tensor
    """The audio encoder's output, one a second: [B, T, E]."""
    size: tuple[int, int]
    """H and W of the frames, and of the masks."""
    present: Tensor | None = None
    """[B, T] bool, False for padding; None if no clip is padded."""

    @classmethod
    def of_batch(cls, batch: Mapping[str, Any]) -> Self:
        """From a batch of `FeatureClips`; their masks have the size of the frames."""
        size = batch["masks"].shape[-2:]
        return cls(
            maps=[batch[name] for name in MAPS],
            embeddings=batch[EMBEDDINGS],
            size=(size[0], size[1]),
            present=padding_of(batch),
        )

    def map(self, function: Any) -> Self:
        """With `function` applied to the encoders' outputs."""
        return type(self)(
            maps=[function(level) for level in self.maps],
            embeddings=function(self.embeddings),
            size=self.size,
            present=self.present,
        )


def padding_of(batch: Mapping[str, Any]) -> Tensor | None:
    """The batch's `present` [B, T]; None if no clip of it is padded. Where it is on a GPU, this waits for the GPU."""
    present = batch.get("present")
    return None if present is None or bool(present.all()) else present
