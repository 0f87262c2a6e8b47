"""The audio encoder that a config names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdavs_model.config import ModelConfig
from sdavs_model.encoders.loading import Weights
from sdavs_model.encoders.vggish import VGGish
from sdavs_model.encoders.yamnet import YAMNet

if TYPE_CHECKING:
    from sdavs_model.encoders.htsat import HTSAT


def build_audio_encoder(config: ModelConfig, weights: Weights | None) -> VGGish | YAMNet | HTSAT:
    """The audio encoder of a config, with these weights or random ones.

    Raises:
        ValueError: the weights do not fit.
    """
    if config.audio_encoder == "yamnet":
        return YAMNet(weights=weights)
    if config.audio_encoder == "htsat":
        from sdavs_model.encoders.htsat import HTSAT  # with timm, which takes seconds to import

        return HTSAT(weights=weights)
    return VGGish(width=config.vggish_width, weights=weights)
