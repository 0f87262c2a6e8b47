"""The config of a TPAVI model."""

from dataclasses import dataclass
from typing import Literal

from sdavs_model.config import ModelConfig, require


@dataclass(frozen=True, kw_only=True)
class TPAVIConfig(ModelConfig):
    """A complete TPAVI model. The defaults are the published PVT-v2 model, at SDAVS's picture size."""

    weight_keys = (*ModelConfig.weight_keys, "width", "fusion")

    architecture: Literal["tpavi"] = "tpavi"
    width: int = 256
    """Channels of all four levels; a multiple of 8. 256 is the published value."""
    fusion: bool = True
    """Mix the sound into the picture. false: the same network without sound."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.width >= 8 and self.width % 8 == 0, "width", self.width, "a multiple of 8")
