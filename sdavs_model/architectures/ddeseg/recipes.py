"""DDESeg's two variants and its ablations as named recipes: functions that return a full config.

The paper's result tables could not be read, so there are no published figures here.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from sdavs_model.architectures.ddeseg.config import DDESegConfig

Recipe = Callable[[DDESegConfig], DDESegConfig]

BASE = DDESegConfig(placement="before_blocks", first_stride=2, num_classes=71, num_frames=10)
"""The published model: MiT-B5's layers, first stride 2, 224 px, ten frames and the 71 classes of AVSBench-semantic."""


def figure(base: DDESegConfig) -> DDESegConfig:
    """As the paper's figure draws it: tokens survive stage by stage, each by its own score."""
    return _with(base, variant="figure")


def code(base: DDESegConfig) -> DDESegConfig:
    """As the authors' code has it: every stage gets all tokens and merges them into one by a softmax."""
    return _with(base, variant="code")


def without_derivation(base: DDESegConfig) -> DDESegConfig:
    """The sound's own embedding as the only token, without a bank."""
    return _with(
        dataclasses.replace(base, bank=None, bank_data_digest=None, bank_classes=(), token_width=None),
        derivation=False,
    )


def without_discriminative(base: DDESegConfig) -> DDESegConfig:
    """Tokens derived with class means only, not refined by prototypes."""
    return _with(base, discriminative=False)


def without_elimination(base: DDESegConfig) -> DDESegConfig:
    """Every token counts the same at every stage."""
    return _with(base, elimination=False)


def audio_in_train_mode(base: DDESegConfig) -> DDESegConfig:
    """HTS-AT in train mode while the model trains, as the authors' code leaves its frozen encoder. Needs HTS-AT."""
    return _with(base, audio_in_train_mode=True)


def one_nearest(base: DDESegConfig) -> DDESegConfig:
    """k = 1: a token with the nearest class only."""
    return _with(base, num_nearest=1)


def three_nearest(base: DDESegConfig) -> DDESegConfig:
    """k = 3 nearest classes."""
    return _with(base, num_nearest=3)


def eight_nearest(base: DDESegConfig) -> DDESegConfig:
    """k = 8 nearest classes."""
    return _with(base, num_nearest=8)


def one_prototype(base: DDESegConfig) -> DDESegConfig:
    """n = 1: the bank has only the mean of each class."""
    return _with(base, num_prototypes=1)


def three_prototypes(base: DDESegConfig) -> DDESegConfig:
    """n = 3 prototypes of each class."""
    return _with(base, num_prototypes=3)


def eight_prototypes(base: DDESegConfig) -> DDESegConfig:
    """n = 8 prototypes of each class."""
    return _with(base, num_prototypes=8)


RECIPES: dict[str, Recipe] = {
    recipe.__name__: recipe
    for recipe in (
        figure,
        code,
        without_derivation,
        without_discriminative,
        without_elimination,
        audio_in_train_mode,
        one_nearest,
        three_nearest,
        eight_nearest,
        one_prototype,
        three_prototypes,
        eight_prototypes,
    )
}

TABLES: dict[str, tuple[str, ...]] = {
    "variants": ("code", "figure"),
    "modules": ("without_derivation", "without_discriminative", "without_elimination", "figure"),
    "nearest": ("one_nearest", "three_nearest", "eight_nearest", "figure"),
    "prototypes": ("one_prototype", "three_prototypes", "eight_prototypes", "figure"),
}

COMPARED = ("figure", "code")
TITLES = {
    "variants": "The paper's figure and the authors' code",
    "modules": "The three modules",
    "nearest": "The number of nearest classes, k",
    "prototypes": "The number of prototypes of a class, n",
}

PAPER: dict[str, dict[str, tuple[float, float]]] = {}


def _with(base: DDESegConfig, **changes) -> DDESegConfig:
    """`base` with all modules, k and n of the published model, variant "figure", and these changes to it."""
    parts = {f.name for f in dataclasses.fields(base.ablation)}
    ablation = dataclasses.replace(
        type(base.ablation)(), **{name: value for name, value in changes.items() if name in parts}
    )
    sizes: dict[str, Any] = {"variant": "figure", "num_nearest": 5, "num_prototypes": 5}
    sizes |= {name: value for name, value in changes.items() if name not in parts}
    return dataclasses.replace(base, ablation=ablation, **sizes)
