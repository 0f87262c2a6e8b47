"""The ablations of the paper's Tables III to VIII as named recipes: functions that return a full config.

The figures in the docstrings are the paper's (Swin-B, 384 px): J / F / mean of both in per cent, on S4 and MS3. Other
data and backbones give other figures.
"""

import dataclasses
from collections.abc import Callable

from sdavs_model.architectures.sdavs.config import SDAVSConfig

Recipe = Callable[[SDAVSConfig], SDAVSConfig]

BASE = SDAVSConfig(backbone="swin_base_patch4_window12_384")
"""The model of the paper's ablations."""


def full(base: SDAVSConfig) -> SDAVSConfig:
    """SDAVS as published. S4 85.5 / 92.0 / 88.8, MS3 72.3 / 80.8 / 76.6 (all tables)."""
    return _with(base)


def without_snrp(base: SDAVSConfig) -> SDAVSConfig:
    """Without the noise-resilient processor. S4 84.1 / 90.8 / 87.5, MS3 70.7 / 79.0 / 74.9 (Table III)."""
    return _with(base, snrp="none")


def without_damf(base: SDAVSConfig) -> SDAVSConfig:
    """Without the mutual fusion. S4 83.2 / 90.5 / 86.9, MS3 69.1 / 78.2 / 73.7 (Table III)."""
    return _with(base, damf=False)


def without_cfs(base: SDAVSConfig) -> SDAVSConfig:
    """Without the channel feature selector. S4 84.3 / 90.9 / 87.6, MS3 70.6 / 79.1 / 74.9 (Table IV)."""
    return _with(base, channel_selector=False)


def without_sfs(base: SDAVSConfig) -> SDAVSConfig:
    """Without the spatial feature selector. S4 84.6 / 91.3 / 88.0, MS3 70.5 / 79.1 / 74.8 (Table IV)."""
    return _with(base, spatial_selector=False)


def snrp_before_fusion(base: SDAVSConfig) -> SDAVSConfig:
    """SNRP before DAMF: the full model under Table V's name. S4 85.5 / 92 / 88.8, MS3 72.3 / 80.8 / 76.6."""
    return _with(base, snrp="before")


def snrp_after_fusion(base: SDAVSConfig) -> SDAVSConfig:
    """SNRP after DAMF. S4 84.3 / 90.6 / 87.5, MS3 71.1 / 78.7 / 74.9 (Table V)."""
    return _with(base, snrp="after")


def only_av(base: SDAVSConfig) -> SDAVSConfig:
    """Only the audio-prompted attention. S4 83.4 / 90.9 / 87.2, MS3 69.6 / 78.8 / 74.2 (Table VI)."""
    return _with(base, direction="av")


def only_va(base: SDAVSConfig) -> SDAVSConfig:
    """Only the video-prompted attention. S4 83.2 / 90.7 / 87.0, MS3 69.3 / 78.6 / 74.0 (Table VI)."""
    return _with(base, direction="va")


def without_stc(base: SDAVSConfig) -> SDAVSConfig:
    """Without the spatial-temporal-channel enhancer. S4 83.8 / 91.0 / 87.4, MS3 70.5 / 79.3 / 74.9 (Table VI)."""
    return _with(base, stc=False)


def rm_multiply(base: SDAVSConfig) -> SDAVSConfig:
    """Residual multiplication, the full model (Table VIII). S4 85.5 / 92.0 / 88.8, MS3 72.3 / 80.8 / 76.6."""
    return _with(base, rm="multiply")


def rm_add(base: SDAVSConfig) -> SDAVSConfig:
    """Addition instead of residual multiplication. S4 84.3 / 91.5 / 87.9, MS3 71.6 / 79.9 / 75.2 (Table VIII)."""
    return _with(base, rm="add")


def rm_straight(base: SDAVSConfig) -> SDAVSConfig:
    """No interaction instead of residual multiplication. S4 83.9 / 91.2 / 87.6, MS3 71.2 / 79.6 / 74.8 (Table VIII)."""
    return _with(base, rm="straight")


def without_car(base: SDAVSConfig) -> SDAVSConfig:
    """STC without channel-wise adaptive recalibration. The paper gives no figure."""
    return _with(base, car=False)


def figure_spatial_gate(base: SDAVSConfig) -> SDAVSConfig:
    """The spatial gate decoded from audio alone, as figure 2 draws it. The paper gives no separate figure."""
    return _with(base, spatial_gate="audio")


RECIPES: dict[str, Recipe] = {
    recipe.__name__: recipe
    for recipe in (
        full,
        without_snrp,
        without_damf,
        without_cfs,
        without_sfs,
        snrp_before_fusion,
        snrp_after_fusion,
        only_av,
        only_va,
        without_stc,
        rm_multiply,
        rm_add,
        rm_straight,
        without_car,
        figure_spatial_gate,
    )
}

TABLES: dict[str, tuple[str, ...]] = {
    "III": ("without_snrp", "without_damf", "full"),
    "IV": ("without_cfs", "without_sfs", "full"),
    "V": ("snrp_before_fusion", "snrp_after_fusion"),
    "VI": ("only_av", "only_va", "without_stc", "full"),
    "VIII": ("rm_straight", "rm_add", "rm_multiply"),
}

COMPARED = ("full",)
TITLES = {
    "III": "Table III: the two modules",
    "IV": "Table IV: the two selectors of SNRP",
    "V": "Table V: the position of SNRP",
    "VI": "Table VI: the parts of DAMF",
    "VIII": "Table VIII: how the streams interact",
}

# J and F in per cent on S4 and MS3, Swin-B at 384 px (Tables III to VIII); the paper has none for other recipes.
PAPER: dict[str, dict[str, tuple[float, float]]] = {
    "full": {"S4": (85.5, 92.0), "MS3": (72.3, 80.8)},
    "without_snrp": {"S4": (84.1, 90.8), "MS3": (70.7, 79.0)},
    "without_damf": {"S4": (83.2, 90.5), "MS3": (69.1, 78.2)},
    "without_cfs": {"S4": (84.3, 90.9), "MS3": (70.6, 79.1)},
    "without_sfs": {"S4": (84.6, 91.3), "MS3": (70.5, 79.1)},
    "snrp_before_fusion": {"S4": (85.5, 92.0), "MS3": (72.3, 80.8)},
    "snrp_after_fusion": {"S4": (84.3, 90.6), "MS3": (71.1, 78.7)},
    "only_av": {"S4": (83.4, 90.9), "MS3": (69.6, 78.8)},
    "only_va": {"S4": (83.2, 90.7), "MS3": (69.3, 78.6)},
    "without_stc": {"S4": (83.8, 91.0), "MS3": (70.5, 79.3)},
    "rm_multiply": {"S4": (85.5, 92.0), "MS3": (72.3, 80.8)},
    "rm_add": {"S4": (84.3, 91.5), "MS3": (71.6, 79.9)},
    "rm_straight": {"S4": (83.9, 91.2), "MS3": (71.2, 79.6)},
}


def _with(base: SDAVSConfig, **changes) -> SDAVSConfig:
    """`base` with the full model's ablation and these changes to it."""
    return dataclasses.replace(base, ablation=dataclasses.replace(type(base.ablation)(), **changes))
