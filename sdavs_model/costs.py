"""Dataclasses for the cost of a model: what is counted, what a paper prints, and the bounds on both."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PartCost:
    """Parameters and multiply-accumulates of one part of a model."""

    parameters: int
    macs: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Parameters, and multiply-accumulates of one clip; the same on every machine."""

    parameters: int
    """Parameters without the audio encoder, which papers freeze and do not count (Table X: "trainable")."""
    audio_encoder_parameters: int
    """Parameters of the audio encoder."""
    macs: int
    """Multiply-accumulates of the whole model, the audio encoder included; what Table X calls FLOPs."""
    backbone_macs: int
    """Multiply-accumulates of the bare backbone on the same frames."""
    parts: Mapping[str, PartCost]
    """The costs of every part that the model names; see `SegmentationModel.parts`."""


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """The published cost of one model; None where the paper gives no figure."""

    label: str
    parameters_m: float
    macs_g: float | None = None
    frames_per_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Check:
    """A quantity and its bounds, in its own unit."""

    quantity: str
    value: float
    low: float
    high: float | None
    """None: no upper bound."""

    @property
    def within(self) -> bool:
        """Whether the value is within the bounds."""
        return self.low <= self.value and (self.high is None or self.value <= self.high)


def near(quantity: str, value: float, target: float, tolerance: float) -> Check:
    """A check that a value is within a fraction of a target."""
    return Check(quantity=quantity, value=value, low=target * (1 - tolerance), high=target * (1 + tolerance))
