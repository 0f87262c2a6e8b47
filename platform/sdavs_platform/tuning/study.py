"""Studies: which variants of a model to train, and which of them are the same model.

An ablation study trains recipes of one architecture, a study of architectures one or more recipes of each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdavs_model.analysis.sound_conditions import OFF_SCREEN, ORIGINAL, SILENCE, WHITE_NOISE, factor_condition
from sdavs_model.architectures import ARCHITECTURES
from sdavs_model.recipes import recipes_of
from sdavs_model.suggestions import nearest_or_all
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.tuning.space import with_values

ARCHITECTURES_STUDY = "architectures"
FOLDS_STUDY = "folds"

SWAPPED = "swapped audio"
"""The condition in which each test clip gets the sound of another one, of other categories."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """The variants that are compared with the first of them."""

    tables: dict[str, tuple[str, ...]]
    """Title -> recipes, in the paper's order."""
    trained_as: dict[str, str]
    """Recipe -> the recipe that is trained for it: equal models are trained once. The first is the full model."""
    values: Mapping[str, dict[str, Any]]
    """Variant -> the dotted keys, with values, in which it differs from the base config."""
    conditions: tuple[str, ...] = (ORIGINAL, SWAPPED)
    """Sounds of the test, see `sdavs_platform.tuning.measurements`."""

    @property
    def reference(self) -> str:
        """The recipe that the others are compared with."""
        return next(iter(self.trained_as))

    @property
    def variants(self) -> tuple[str, ...]:
        """The recipes to train, the full model first."""
        return tuple(dict.fromkeys(self.trained_as.values()))


def parse_study(text: str, base: RunConfig, models: Mapping[str, Mapping[str, Any]] | None = None) -> Study:
    """`ablation/tables`, `ablation/III,VI`, `ablation/full,without_snrp`, `noise`, `architectures`, `folds/5`.

    Args:
        models: for `architectures`, keys of the section `model` by architecture; see `SweepConfig.models`.

    Raises:
        ValueError: no such study, architecture, table or recipe of the base config's architecture; names the nearest.
            Or a variant whose config is not allowed.
    """
    kind, _, selection = text.partition("/")
    if kind == ARCHITECTURES_STUDY:
        return _architectures(selection, base, models or {})
    if kind == FOLDS_STUDY:
        return _folds(selection, base)
    book = recipes_of(base.model.architecture)
    if text == "noise":
        if base.model.architecture != "sdavs":
            raise ValueError(
                f"study: noise compares SDAVS with and without SNRP, which {base.model.architecture} does not have"
            )
        return _study(
            {"IX": ("without_snrp", book.reference)},
            base,
            conditions=(ORIGINAL, *map(factor_condition, ("brownian", "moving train"))),
        )
    if kind != "ablation" or not selection:
        raise ValueError(
            f"study: no {text!r}; allowed: noise, ablation/tables, ablation/ with tables "
            f"({', '.join(book.tables)}) or recipes ({', '.join(book.recipes)}), joined by commas; "
            f"architectures, or architectures/ with some of {', '.join(ARCHITECTURES)}; folds/ with their number"
        )
    if selection == "tables":
        return _study(dict(book.tables), base)
    tables: dict[str, tuple[str, ...]] = {}
    chosen: list[str] = []
    for name in (part.strip() for part in selection.split(",")):
        if name in book.tables:
            tables[name] = book.tables[name]
        elif name in book.recipes:
            chosen.append(name)
        else:
            raise ValueError(
                f"study: no table or recipe {name!r}; {nearest_or_all(name, [*book.tables, *book.recipes])}"
            )
    if chosen:
        tables["selected"] = tuple(dict.fromkeys(chosen))
    return _study(tables, base)


def _folds(selection: str, base: RunConfig) -> Study:
    if not selection.isdecimal() or int(selection) < 2:
        raise ValueError(
            f"study: folds/{selection} is not allowed; allowed: folds/2, folds/3, folds/5 and so on"
        )
    values = {
        f"fold_{fold}": {"data.num_folds": int(selection), "data.fold": fold}
        for fold in range(int(selection))
    }
    for own in values.values():
        with_values(base, own)
    # Folds are not compared with each other, and the test is their ensemble's.
    return Study(tables={}, trained_as={name: name for name in values}, values=values, conditions=())


def _architectures(selection: str, base: RunConfig, models: Mapping[str, Mapping[str, Any]]) -> Study:
    chosen = [part.strip() for part in selection.split(",")] if selection else [*ARCHITECTURES]
    for name in [*chosen, *models]:
        if name not in ARCHITECTURES:
            raise ValueError(f"study: no architecture {name!r}; {nearest_or_all(name, ARCHITECTURES)}")
    values: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(chosen):
        book = recipes_of(name)
        own = {"model.architecture": name} | {
            f"model.{k}": value for k, value in models.get(name, {}).items()
        }
        try:
            config = with_values(base, own).model
        except ValueError as error:
            raise ValueError(f"study: {name} does not fit the base config: {error}") from None
        for recipe in book.compared:
            variant = name if len(book.compared) == 1 else f"{name}_{recipe}"
            wanted = book.build(recipe, config)
            values[variant] = own | _differences(config.to_dict(), wanted.to_dict(), "model.")
    return Study(
        tables={ARCHITECTURES_STUDY: tuple(values)},
        trained_as={variant: variant for variant in values},
        values=values,
        conditions=(ORIGINAL, SILENCE, WHITE_NOISE, OFF_SCREEN),
    )


def _differences(given: dict[str, Any], wanted: dict[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in wanted.items():
        if isinstance(value, dict):
            found |= _differences(given[key], value, f"{prefix}{key}.")
        elif value != given[key]:
            found[f"{prefix}{key}"] = value
    return found


def _study(
    tables: dict[str, tuple[str, ...]], base: RunConfig, conditions: tuple[str, ...] = (ORIGINAL, SWAPPED)
) -> Study:
    trained_as: dict[str, str] = {}
    by_model: dict[Any, str] = {}
    book = recipes_of(base.model.architecture)
    for recipe in (book.reference, *(name for table in tables.values() for name in table)):
        trained_as[recipe] = by_model.setdefault(book.build(recipe, base.model), recipe)
    given = base.model.to_dict()
    return Study(
        tables=tables,
        trained_as=trained_as,
        values={
            variant: _differences(given, book.build(variant, base.model).to_dict(), "model.")
            for variant in dict.fromkeys(trained_as.values())
        },
        conditions=conditions,
    )
