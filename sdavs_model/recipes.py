"""Named recipes of an architecture: its ablations, and the tables that compare them.

Each architecture lists its own in `architectures/NAME/recipes.py`. A recipe is a function from one config to another:
it sets the parts of the model and keeps backbone, sizes and weights.
"""

import builtins
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sdavs_model.architectures import DEFAULT_ARCHITECTURE, find_architecture
from sdavs_model.config import ModelConfig
from sdavs_model.suggestions import nearest_or_all

Recipe = Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True)
class RecipeBook:
    """The recipes of one architecture."""

    recipes: Mapping[str, Recipe]
    """By name; the first is the reference that the others are compared with. The docstring of each describes it."""
    tables: Mapping[str, tuple[str, ...]]
    """Table -> its recipes, in the paper's order."""
    titles: Mapping[str, str]
    """Table -> its title."""
    published: Mapping[str, Mapping[str, tuple[float, float]]]
    """Recipe -> data set -> J and F in per cent, as the paper prints them."""
    base: ModelConfig
    """The config that the paper's ablations start from."""
    compared: tuple[str, ...]
    """The recipes that represent the architecture in a comparison of architectures."""

    @property
    def reference(self) -> str:
        """The recipe that the others are compared with."""
        return next(iter(self.recipes))

    def build(self, name: str, base: ModelConfig | None = None) -> Any:
        """The full config of a recipe.

        Args:
            name: one of `recipes`.
            base: config whose backbone, sizes and weights are kept; None for `self.base`.

        Raises:
            ValueError: no such recipe; the message names the nearest.
        """
        if name not in self.recipes:
            raise ValueError(f"recipe: no {name!r}; {nearest_or_all(name, self.recipes)}")
        return self.recipes[name](base or self.base)


def recipes_of(architecture: str) -> RecipeBook:
    """The recipes of an architecture.

    Raises:
        ValueError: no such architecture.
    """
    module = find_architecture(architecture).module("recipes")
    return RecipeBook(
        recipes=module.RECIPES,
        tables=module.TABLES,
        titles=module.TITLES,
        published=module.PAPER,
        base=module.BASE,
        compared=module.COMPARED,
    )


def list(architecture: str = DEFAULT_ARCHITECTURE) -> builtins.list[str]:
    """Names of all recipes of an architecture, in the order of its tables."""
    return [*recipes_of(architecture).recipes]


def build(name: str, base: ModelConfig | None = None) -> Any:
    """The full config of a recipe of `base`'s architecture; see `RecipeBook.build`.

    Args:
        base: None for SDAVS's Swin-B at 384 px.
    """
    return recipes_of(base.architecture if base else DEFAULT_ARCHITECTURE).build(name, base)
