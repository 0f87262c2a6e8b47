"""The published size of TPAVI: 101.32 M parameters with PVT-v2-b5, without VGGish; derived from the authors' code."""

from collections.abc import Mapping

from sdavs_model.architectures.tpavi.recipes import BASE
from sdavs_model.costs import Check, Cost, PaperRow, near

PAPER_ROWS: dict[str, dict[str, PaperRow]] = {
    "pvt_v2_b5": {"full": PaperRow(label="TPAVI", parameters_m=101.32)}
}
PAPER_CONFIG = BASE
MAX_RATIO: dict[str, float] = {}


def checks(backbone: str, recipe: str, costs: Mapping[str, Cost]) -> list[Check]:
    """The checks of one row; see `sdavs_model.budgets.checks`."""
    published = PAPER_ROWS[backbone][recipe].parameters_m
    return [near("parameters, M", costs[recipe].parameters / 1e6, published, 0.02)]
