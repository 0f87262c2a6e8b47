"""Ablation studies: which recipes of the paper's tables to train, and which of them are the same model."""

from dataclasses import dataclass
from typing import Any

from sdavs_model.analysis.noise_mixing import ORIGINAL, factor_condition
from sdavs_model.recipes import recipes_of
from sdavs_platform.config.suggestions import nearest_or_all
from sdavs_platform.config.tree import RunConfig

SWAPPED = "swapped audio"
"""The condition in which each test clip gets the sound of another one, of other categories."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """The recipes that are compared with the full model."""

    tables: dict[str, tuple[str, ...]]
    """Title -> recipes, in the paper's order."""
    trained_as: dict[str, str]
    """Recipe -> the recipe that is trained for it: equal models are trained once. The first is the full model."""
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


def parse_study(text: str, base: RunConfig) -> Study:
    """`ablation/tables`, `ablation/III,VI`, `ablation/full,without_snrp` or `noise`.

    Raises:
        ValueError: no such study, table or recipe of the base config's architecture; names the nearest.
    """
    kind, _, selection = text.partition("/")
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
            f"({', '.join(book.tables)}) or recipes ({', '.join(book.recipes)}), joined by commas"
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


def variant_values(recipe: str, base: RunConfig) -> dict[str, Any]:
    """The dotted keys, with values, in which a recipe differs from the base config."""
    wanted = recipes_of(base.model.architecture).build(recipe, base.model)
    return _differences(base.model.to_dict(), wanted.to_dict(), "model.")


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
    return Study(tables=tables, trained_as=trained_as, conditions=conditions)
