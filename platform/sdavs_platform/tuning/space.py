"""The search space: keys of the config tree with their possible values, validated before anything starts."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import model_validator

from sdavs_model.architectures import ARCHITECTURES
from sdavs_model.config import ModelConfig
from sdavs_model.suggestions import nearest_key
from sdavs_platform.config.cli import config_keys, load_config
from sdavs_platform.config.tree import RunConfig, Section

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# These must be equal in all trials, which are compared and share cluster and storage.
FIXED = (
    "name",
    "cluster.",
    "storage.",
    "tracking.",
    "serve.",
    "data.root",
    "data.train_split",
    "data.val_split",
    "data.test_splits",
)

Distribution = Literal["choice", "uniform", "loguniform", "integer", "log_integer"]


class Dimension(Section):
    """The values of one key; exactly one field is set."""

    choice: tuple[Any, ...] | None = None
    """One of these, all equally likely."""

    uniform: tuple[float, float] | None = None
    """A number from low to high."""

    loguniform: tuple[float, float] | None = None
    """A number from low to high, uniform on a logarithmic scale; low must be above 0."""

    integer: tuple[int, int] | None = None
    """A whole number from low to high, both included."""

    log_integer: tuple[int, int] | None = None
    """A whole number from low to high, both included, uniform on a logarithmic scale; low must be at least 1."""

    @model_validator(mode="after")
    def _one_and_sound(self) -> "Dimension":
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(type(self).model_fields)}")
        values = getattr(self, given[0])
        if not values:
            raise ValueError("choice: is empty; give at least one value")
        if given[0] != "choice" and not all(math.isfinite(value) for value in values):
            raise ValueError(f"{given[0]}: {values[0]} to {values[1]} is no finite range")
        if given[0] != "choice" and not values[0] < values[1]:
            raise ValueError(f"{given[0]}: low ({values[0]}) must be below high ({values[1]})")
        if given[0].startswith("log") and values[0] <= 0:
            raise ValueError(f"{given[0]}: low ({values[0]}) must be above 0")
        return self

    @property
    def kind(self) -> Distribution:
        """The name of the field that is set."""
        kinds: tuple[Distribution, ...] = ("choice", "uniform", "loguniform", "integer", "log_integer")
        return next(kind for kind in kinds if getattr(self, kind) is not None)

    @property
    def extremes(self) -> tuple[Any, ...]:
        """All choices, or low and high."""
        return getattr(self, self.kind)

    @property
    def is_logarithmic(self) -> bool:
        """Whether the values are on a logarithmic scale."""
        return self.kind.startswith("log")

    def draw(self, rng: np.random.Generator) -> Any:
        """Draw a random value."""
        values = self.extremes
        if self.kind == "choice":
            return values[int(rng.integers(len(values)))]
        low, high = values
        if self.kind == "uniform":
            return float(rng.uniform(low, high))
        if self.kind == "loguniform":
            return float(math.exp(rng.uniform(math.log(low), math.log(high))))
        if self.kind == "integer":
            return int(rng.integers(low, high + 1))
        # Half a step beyond both ends, so that the ends are as likely as their neighbours.
        drawn = math.exp(rng.uniform(math.log(low - 0.5), math.log(high + 0.5)))
        return min(max(round(drawn), low), high)

    def distribution(self) -> "BaseDistribution":
        """The dimension for Optuna. Choices are passed as indices, because they may be lists."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.kind == "choice":
            return CategoricalDistribution(tuple(range(len(self.extremes))))
        low, high = self.extremes
        if self.kind in ("uniform", "loguniform"):
            return FloatDistribution(low, high, log=self.is_logarithmic)
        return IntDistribution(low, high, log=self.is_logarithmic)

    def to_optuna(self, value: Any) -> Any:
        """A value as `distribution` represents it."""
        return self.extremes.index(value) if self.kind == "choice" else value

    def from_optuna(self, value: Any) -> Any:
        """The inverse of `to_optuna`."""
        return self.extremes[value] if self.kind == "choice" else value


Space = Mapping[str, Dimension]


def with_values(base: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The config with some dotted keys replaced.

    With another `model.architecture` the section `model` keeps only the keys that all architectures have.

    Raises:
        ValueError: a key or value is not allowed.
    """
    plain = base.model_dump(mode="json")
    if values.get("model.architecture", base.model.architecture) != base.model.architecture:
        common = {field.name for field in dataclasses.fields(ModelConfig)}
        plain["model"] = {key: value for key, value in plain["model"].items() if key in common}
    return load_config([plain], values)


def normalized(space: Space, base: RunConfig) -> dict[str, Dimension]:
    """The space with its choices as the config tree parses them (`1e-4` is a string in YAML, a number here).

    Raises:
        ValueError: one line per wrong key or value: unknown (with the nearest known one), not variable, repeated, or
            a value that is not valid in any combination.
    """
    owners = {key.path: key.architectures for key in config_keys()}
    known = [*owners]
    varied = space["model.architecture"].extremes if "model.architecture" in space else ()
    mistakes = []
    for key in space:
        if key not in known:
            mistakes.append(f"space.{key}: unknown key; {nearest_key(key, known)}")
        elif key.startswith(FIXED):
            mistakes.append(f"space.{key}: must be the same for all trials of a sweep; set it in the config")
        elif others := [name for name in varied if name in ARCHITECTURES and name not in owners[key]]:
            mistakes.append(
                f"space.{key}: a key of model.architecture={' or '.join(owners[key])}, not of {' and '.join(others)}, "
                "which space.model.architecture has, too; search each on its own"
            )
    if mistakes:
        raise ValueError("\n".join(mistakes))
    for key, dimension in space.items():
        for value in dimension.extremes:
            if problem := _never_valid(key, value, space, base):
                mistakes.append(f"space.{key}: {problem}")
    if mistakes:
        raise ValueError("\n".join(mistakes))
    parsed = {key: _parsed(key, dimension, space, base) for key, dimension in space.items()}
    for key, dimension in parsed.items():
        if dimension.choice is not None:
            mistakes += [
                f"space.{key}: {value!r} is given more than once"
                for index, value in enumerate(dimension.choice)
                if value in dimension.choice[:index]
            ]
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return parsed


def grid(space: Space) -> Iterator[dict[str, Any]]:
    """Every combination of the choices, the last key fastest."""
    for values in itertools.product(*(dimension.extremes for dimension in space.values())):
        yield dict(zip(space, values, strict=True))


def draw(space: Space, *, seed: int, number: int) -> dict[str, Any]:
    """The values of random trial `number`, a function of seed and number, so that a resumed search continues."""
    rng = np.random.default_rng([seed, number])
    return {key: dimension.draw(rng) for key, dimension in space.items()}


def at(config: RunConfig, key: str) -> Any:
    """The value of a dotted key in plain JSON types."""
    value: Any = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value


def _never_valid(key: str, value: Any, space: Space, base: RunConfig) -> str | None:
    """Why a value is invalid, alone and with 20 random draws of the other keys; None if it is valid with any."""
    problem = None
    for number in range(21):
        others = draw(space, seed=0, number=number) if number else {}
        try:
            with_values(base, others | {key: value})
            return None
        except ValueError as error:
            problem = problem or str(error)
    return problem


def _parsed(key: str, dimension: Dimension, space: Space, base: RunConfig) -> Dimension:
    if dimension.kind != "choice":
        return dimension
    return Dimension(choice=tuple(_as_in_config(key, value, space, base) for value in dimension.extremes))


def _as_in_config(key: str, value: Any, space: Space, base: RunConfig) -> Any:
    for number in range(21):
        others = draw(space, seed=0, number=number) if number else {}
        try:
            return at(with_values(base, others | {key: value}), key)
        except ValueError:
            continue
    raise AssertionError(f"{key}: {value!r} was valid a moment ago")
