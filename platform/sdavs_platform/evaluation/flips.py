"""Test-time flips: predictions averaged with those of the mirrored frames. An option; no published figure has it."""

import dataclasses
from typing import Any

from torch import Tensor, nn

from sdavs_model import LoadedModel

IN_WORDS = "each prediction is the mean of the frames' and the mirrored frames' logits"


class Flipped(nn.Module):
    """A model that also looks at the mirrored frames. The sound is one channel and stays as it is.

    Args:
        model: maps (frames, log_mel), and `present`, to logits.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.config = model.config

    def forward(self, frames: Tensor, log_mel: Tensor, present: Tensor | None = None) -> Tensor:
        """See `SegmentationModel.forward`."""
        mirrored = self.model(frames.flip(-1), log_mel, present).flip(-1)
        return (self.model(frames, log_mel, present) + mirrored) / 2


def with_flips(loaded: LoadedModel) -> LoadedModel:
    """The same model with test-time flips."""
    flipped: Any = Flipped(loaded.model)
    return dataclasses.replace(loaded, model=flipped)
