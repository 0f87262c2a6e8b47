"""Which audio encoder a config asks for."""

from sdavs_model.config import SDAVSConfig
from sdavs_model.encoders.vggish import VGGish
from sdavs_model.encoders.yamnet import YAMNet


def build_audio_encoder(config: SDAVSConfig) -> VGGish | YAMNet:
    """The audio encoder with the weights that the config names.

    Raises:
        ValueError: the weights file is missing or does not fit.
    """
    weights = None if config.from_scratch else config.audio_weights
    if config.audio_encoder == "yamnet":
        return YAMNet(weights=weights)
    return VGGish(width=config.vggish_width, weights=weights)
