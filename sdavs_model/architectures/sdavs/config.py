"""The config of an SDAVS model: sizes, and the parts that an ablation leaves out."""

from dataclasses import dataclass, field
from typing import Literal

from sdavs_model.config import ModelConfig, check_literals, require


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Which parts of SDAVS are present. The defaults are the full model of the paper.

    Tables III to VIII of the paper are settings of these fields; `sdavs_model.recipes` names them.
    """

    snrp: Literal["before", "after", "none"] = "before"
    """Position of SNRP: before the fusion (the paper's), after it (Table V), or nowhere (Table III)."""
    channel_selector: bool = True
    """SNRP's channel feature selector, CFS (equations 1 and 2; Table IV)."""
    spatial_selector: bool = True
    """SNRP's spatial feature selector, SFS (equation 3; Table IV)."""
    spatial_gate: Literal["agreement", "audio"] = "agreement"
    """Input of SFS. "agreement": where the picture agrees with the sound (our choice: audio alone has no spatial
    position). "audio": as in the paper's figure, a map decoded from audio alone."""
    damf: bool = True
    """The discriminative audio-visual mutual fusion (equations 4 to 7; Table III)."""
    direction: Literal["both", "av", "va"] = "both"
    """Which cross-modal attention runs. "av" is the audio-prompted one alone (queries from audio), "va" the
    video-prompted one alone (Table VI's "only AV" and "only VA")."""
    stc: bool = True
    """The spatial-temporal-channel enhancer in front of the attention (Table VI)."""
    car: bool = True
    """STC's channel-wise adaptive recalibration (equation 6)."""
    rm: Literal["multiply", "add", "straight"] = "multiply"
    """How an attention's output is combined with the other stream: residual multiplication (equation 7), addition, or
    not at all (Table VIII)."""

    def __post_init__(self) -> None:
        check_literals(self)
        if self.snrp == "none" and not (self.channel_selector and self.spatial_selector):
            raise ValueError("ablation.snrp: 'none' removes both selectors already; leave them at true")
        if self.snrp != "none" and not (self.channel_selector or self.spatial_selector):
            raise ValueError("ablation.snrp: without both selectors nothing is left; use snrp='none'")
        if self.snrp == "none" and self.spatial_gate == "audio":
            raise ValueError("ablation.spatial_gate: has no effect with snrp='none'")
        if not self.spatial_selector and self.spatial_gate == "audio":
            raise ValueError("ablation.spatial_gate: has no effect without the spatial selector")
        inside_damf = {"direction": "both", "stc": True, "car": True, "rm": "multiply"}
        changed = [name for name, default in inside_damf.items() if getattr(self, name) != default]
        if not self.damf and changed:
            raise ValueError(f"ablation.{changed[0]}: has no effect without DAMF (damf=false)")
        if not self.stc and not self.car:
            raise ValueError("ablation.car: CAR is a part of STC; stc=false removes it already")


@dataclass(frozen=True, kw_only=True)
class SDAVSConfig(ModelConfig):
    """A complete SDAVS model. The defaults are the paper's PVT-v2 model (IV-A)."""

    weight_keys = (*ModelConfig.weight_keys, "width", "num_heads", "ablation")

    architecture: Literal["sdavs"] = "sdavs"
    width: int = 256
    """Channels of all four levels after the lateral projection. 256 fits the paper's Table X."""
    num_heads: int = 8
    """Heads of every attention; must divide `width`."""
    ablation: Ablation = field(default_factory=Ablation)
    """Which parts of the model are present."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.width >= 8 and self.width % 8 == 0, "width", self.width, "a multiple of 8")
        require(
            self.num_heads >= 1 and self.width % self.num_heads == 0,
            "num_heads",
            self.num_heads,
            f"a divisor of width={self.width}",
        )
