"""SDAVS (IEEE TMM 2026) in pure PyTorch: the model, its losses, metrics, data sets and preprocessing.

Nothing here knows of a cluster, a tracker or a server. Public surface::

    config = sdavs_model.SDAVSConfig(backbone="pvt_v2_b5", image_size=384)
    model = sdavs_model.build_model(config)
    logits = model(frames, log_mel)   # [B, T, 3, H, W], [B, T, 1, 96, 64] -> [B, T, num_classes, H, W]
"""

import importlib
from typing import TYPE_CHECKING, Any

from sdavs_model.config import Ablation, PreprocessConfig, SDAVSConfig

if TYPE_CHECKING:
    from sdavs_model import artifact, losses, metrics, recipes, training_step
    from sdavs_model.architectures.sdavs.model import SDAVS, build_model
    from sdavs_model.artifact import LoadedModel, load_artifact, save_artifact

__all__ = [
    "SDAVS",
    "Ablation",
    "LoadedModel",
    "PreprocessConfig",
    "SDAVSConfig",
    "artifact",
    "build_model",
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
    "build_model": "sdavs_model.architectures.sdavs.model",
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
