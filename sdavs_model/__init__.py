"""SDAVS (IEEE TMM 2026) and other architectures in pure PyTorch: models, losses, metrics, data sets, preprocessing.

The package is independent of clusters, trackers and servers. Public surface::

    config = sdavs_model.SDAVSConfig(backbone="pvt_v2_b5", image_size=384)
    model = sdavs_model.build_model(config)
    logits = model(frames, log_mel)   # [B, T, 3, H, W], [B, T, 1, 96, 64] -> [B, T, num_classes, H, W]
"""

import importlib
from typing import TYPE_CHECKING, Any

from sdavs_model.architectures import ARCHITECTURES, build_model, config_from_dict
from sdavs_model.architectures.sdavs.config import Ablation, SDAVSConfig
from sdavs_model.config import ModelConfig, PreprocessConfig

if TYPE_CHECKING:
    from sdavs_model import artifact, losses, metrics, recipes, training_step
    from sdavs_model.architectures.base import SegmentationModel
    from sdavs_model.architectures.sdavs.model import SDAVS
    from sdavs_model.artifact import LoadedModel, load_artifact, save_artifact

__all__ = [
    "ARCHITECTURES",
    "SDAVS",
    "Ablation",
    "LoadedModel",
    "ModelConfig",
    "PreprocessConfig",
    "SDAVSConfig",
    "SegmentationModel",
    "artifact",
    "build_model",
    "config_from_dict",
    "load_artifact",
    "losses",
    "metrics",
    "recipes",
    "save_artifact",
    "training_step",
]

# torch and timm take seconds to import; a `--help` or a config check should not wait for them.
_HOMES = {
    "SDAVS": "sdavs_model.architectures.sdavs.model",
    "SegmentationModel": "sdavs_model.architectures.base",
    "LoadedModel": "sdavs_model.artifact",
    "load_artifact": "sdavs_model.artifact",
    "save_artifact": "sdavs_model.artifact",
}
_SUBMODULES = {"artifact", "losses", "metrics", "recipes", "training_step"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"sdavs_model.{name}")
    raise AttributeError(f"module 'sdavs_model' has no attribute {name!r}")
