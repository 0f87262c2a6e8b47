"""The published sizes of DDESeg's parts, derived from the authors' code: 224 px, MiT-B5, HTS-AT, 71 classes."""

from collections.abc import Mapping

from sdavs_model.architectures.ddeseg.recipes import BASE
from sdavs_model.costs import Check, Cost, PaperRow, near

PARTS_M = {"derivation": 3.54, "audio MLPs": 12.6, "elimination": 2.32, "head": 3.2}
"""Millions of parameters that are used. The code defines another 0.77 M in the elimination and never uses them."""
BACKBONE_M = 81.44
TOLERANCE = 0.02

_TOTAL = PaperRow(label="DDESeg", parameters_m=BACKBONE_M + sum(PARTS_M.values()))
PAPER_ROWS: dict[str, dict[str, PaperRow]] = {"pvt_v2_b5": {"figure": _TOTAL, "code": _TOTAL}}
PAPER_CONFIG = BASE
MAX_RATIO: dict[str, float] = {}


def checks(backbone: str, recipe: str, costs: Mapping[str, Cost]) -> list[Check]:
    """The checks of one row; see `sdavs_model.budgets.checks`."""
    cost = costs[recipe]
    found = [
        near(f"{name}, M", cost.parts[name].parameters / 1e6, published, TOLERANCE)
        for name, published in PARTS_M.items()
    ]
    total = PAPER_ROWS[backbone][recipe].parameters_m
    return [*found, near("parameters, M", cost.parameters / 1e6, total, TOLERANCE)]
