"""Published sizes and costs of the architectures, and checks that ours stay near them.

Each architecture has its own figures in `architectures/NAME/budgets.py`: PAPER_ROWS, PAPER_CONFIG, MAX_RATIO, checks.
"""

from collections.abc import Mapping

from sdavs_model.architectures import find_architecture
from sdavs_model.architectures.sdavs.budgets import PVT_B5, SWIN_B
from sdavs_model.benchmark import Speed
from sdavs_model.config import ModelConfig
from sdavs_model.costs import Check, Cost, PaperRow

__all__ = ["PVT_B5", "SWIN_B", "checks", "paper_row", "paper_rows", "ratio_check"]

# Keys that must equal those of the paper's config, in addition to the backbone, for its rows to apply.
_SIZES = ("image_size", "num_frames", "width", "num_heads", "num_classes")


def paper_rows(config: ModelConfig) -> Mapping[str, PaperRow]:
    """The paper's rows for the architecture and backbone of a config, by recipe, whatever its sizes."""
    return find_architecture(config.architecture).module("budgets").PAPER_ROWS.get(config.backbone, {})


def paper_row(config: ModelConfig, recipe: str) -> PaperRow | None:
    """The paper's row for this model, or None if the config is not one of the paper's."""
    published = find_architecture(config.architecture).module("budgets").PAPER_CONFIG
    if any(getattr(config, name, None) != getattr(published, name, None) for name in _SIZES):
        return None
    return paper_rows(config).get(recipe)


def checks(config: ModelConfig, recipe: str, costs: Mapping[str, Cost]) -> list[Check]:
    """The checks of one row.

    Args:
        config: one for which there is a `paper_row`.
        costs: costs of the same backbone by recipe; must hold `recipe` and the architecture's reference.
    """
    return find_architecture(config.architecture).module("budgets").checks(config.backbone, recipe, costs)


def ratio_check(config: ModelConfig, recipe: str, speed: Speed) -> Check | None:
    """The check of the whole model's time against its bare backbone's; None if there is no bound for this recipe."""
    bound = find_architecture(config.architecture).module("budgets").MAX_RATIO.get(recipe)
    if bound is None:
        return None
    return Check(quantity="whole / bare backbone", value=speed.ratio, low=1.0, high=bound)
