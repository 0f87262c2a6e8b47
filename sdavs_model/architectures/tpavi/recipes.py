"""The recipes of TPAVI: the model, and the same network without sound."""

import dataclasses
from collections.abc import Callable

from sdavs_model.architectures.tpavi.config import TPAVIConfig

Recipe = Callable[[TPAVIConfig], TPAVIConfig]

BASE = TPAVIConfig(image_size=224)
"""The published model: PVT-v2-b5 at 224 px."""


def full(base: TPAVIConfig) -> TPAVIConfig:
    """TPAVI as published."""
    return dataclasses.replace(base, fusion=True)


def without_fusion(base: TPAVIConfig) -> TPAVIConfig:
    """Without the interaction, and so without sound."""
    return dataclasses.replace(base, fusion=False)


RECIPES: dict[str, Recipe] = {recipe.__name__: recipe for recipe in (full, without_fusion)}
TABLES: dict[str, tuple[str, ...]] = {"fusion": ("without_fusion", "full")}
COMPARED = ("full",)
TITLES = {"fusion": "The interaction of sound and picture"}

# The paper's tables use other splits and measures of these variants, so there is nothing to print next to ours.
PAPER: dict[str, dict[str, tuple[float, float]]] = {}
