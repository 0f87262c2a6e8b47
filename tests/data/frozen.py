"""A small model with frozen encoders, whose outputs tests cache."""

from sdavs_model import SDAVSConfig

CONFIG = SDAVSConfig(
    backbone="test_efficientnet",
    image_size=64,
    width=16,
    num_heads=2,
    vggish_width=0.125,
    freeze_backbone=True,
    freeze_audio_encoder=True,
)
