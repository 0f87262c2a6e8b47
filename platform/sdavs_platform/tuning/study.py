"""Ablation studies: which recipes of the paper's tables to train, and which of them are the same model."""

from dataclasses import dataclass
from typing import Any

from sdavs_model import recipes
from sdavs_model.analysis.noise_mixing import ORIGINAL, factor_condition
from sdavs_platform.config.suggestions import nearest_or_all
from sdavs_platform.config.tree import RunConfig

REFERENCE = "full"


@dataclass(frozen=True, kw_only=True)
class Study:
    """The recipes that are compared with the full model."""

    tables: dict[str, tuple[str, ...]]
    """Title -> recipes, in the paper's order."""
    trained_as: dict[str, str]
    """Recipe -> the recipe that is trained for it: equal models are trained once."""
    conditions: tuple[str, ...] = (ORIGINAL,)
    """Sounds of the test, see `sdavs_platform.tuning.measurements`."""

    @property
    def variants(self) -> tuple[str, ...]:
        """The recipes to train, the full model first."""
        return tuple(dict.fromkeys(self.trained_as.values()))


def parse_study(text: str, base: RunConfig) -> Study:
    """`ablation/tables`, `ablation/III,VI`, `ablation/full,without_snrp` or `noise`.

    Raises:
        ValueError: no such study, table or recipe; names the nearest.
    """
    kind, _, selection = text.partition("/")
    if text == "noise":
        return _study(
            {"IX": ("without_snrp", REFERENCE)},
            base,
            conditions=(ORIGINAL, *map(factor_condition, ("brownian", "moving train"))),
        )
    if kind != "ablation" or not selection:
        raise ValueError(
            f"study: no {text!r}; allowed: noise, ablation/tables, ablation/ with tables "
            f"({', '.join(recipes.TABLES)}) or recipes, such as ablation/III,VI or ablation/full,without_snrp"
        )
    if selection == "tables":
        return _study(dict(recipes.TABLES), base)
    tables: dict[str, tuple[str, ...]] = {}
    chosen: list[str] = []
    for name in (part.strip() for part in selection.split(",")):
        if name in recipes.TABLES:
            tables[name] = recipes.TABLES[name]
        elif name in recipes.RECIPES:
            chosen.append(name)
        else:
            raise ValueError(
                f"study: no table or recipe {name!r}; "
                f"{nearest_or_all(name, [*recipes.TABLES, *recipes.RECIPES])}"
            )
    if chosen:
        tables["selected"] = tuple(dict.fromkeys(chosen))
    return _study(tables, base)


def variant_values(recipe: str, base: RunConfig) -> dict[str, Any]:
    """The dotted keys, with values, in which a recipe differs from the base config."""
    wanted = recipes.build(recipe, base.model).to_dict()["ablation"]
    given = base.model.to_dict()["ablation"]
    return {f"model.ablation.{key}": value for key, value in wanted.items() if value != given[key]}


def _study(
    tables: dict[str, tuple[str, ...]], base: RunConfig, conditions: tuple[str, ...] = (ORIGINAL,)
) -> Study:
    trained_as: dict[str, str] = {}
    by_model: dict[Any, str] = {}
    for recipe in (REFERENCE, *(name for table in tables.values() for name in table)):
        trained_as[recipe] = by_model.setdefault(recipes.build(recipe, base.model), recipe)
    return Study(tables=tables, trained_as=trained_as, conditions=conditions)
