"""The paper's Table X, and the bounds within which the model has to stay near it.

Table X: Swin-B, 384 px, one clip of five frames. Its "FLOPs" are multiply-accumulates: the bare backbone alone has
236 G of them. Its frame rates were measured on the authors' A6000.
"""

from collections.abc import Mapping

from sdavs_model.architectures.sdavs.config import SDAVSConfig
from sdavs_model.costs import Check, Cost, PaperRow, near

SWIN_B = "swin_base_patch4_window12_384"
PVT_B5 = "pvt_v2_b5"

# By backbone and recipe. The PVT row is derived: 81.45 M for the backbone, and the rest as in Swin's rows; its frame
# rate is from the text of IV-F.
PAPER_ROWS: dict[str, dict[str, PaperRow]] = {
    SWIN_B: {
        "full": PaperRow(label="Ours", parameters_m=103.2, macs_g=300.9, frames_per_s=31.2),
        "without_snrp": PaperRow(label="w/o SNRP", parameters_m=100.58, macs_g=300.85, frames_per_s=31.1),
        "without_damf": PaperRow(label="w/o DAMF", parameters_m=100.76, macs_g=280.31, frames_per_s=33.5),
        "without_stc": PaperRow(label="w/o STC", parameters_m=103.0, macs_g=426.7, frames_per_s=22.0),
        "rm_straight": PaperRow(label="w/o RM", parameters_m=103.2, macs_g=300.88, frames_per_s=31.2),
    },
    PVT_B5: {"full": PaperRow(label="Ours", parameters_m=97.8, macs_g=None, frames_per_s=32.25)},
}

PAPER_CONFIG = SDAVSConfig()
"""Rows of `PAPER_ROWS` are for models of these sizes, with any of its backbones."""

# Recipe -> largest ratio of the model's time to its bare backbone's; by Table X's MACs it would be 1.28.
MAX_RATIO = {"full": 1.35}


def checks(backbone: str, recipe: str, costs: Mapping[str, Cost]) -> list[Check]:
    """The checks of one row; see `sdavs_model.budgets.checks`."""
    here, full = costs[recipe], costs["full"]
    fewer_m, fewer_g = (full.parameters - here.parameters) / 1e6, (full.macs - here.macs) / 1e9
    if recipe == "full":
        paper = PAPER_ROWS[backbone]["full"]
        found = [near("parameters, M", here.parameters / 1e6, paper.parameters_m, 0.02)]
        if paper.macs_g is not None:
            found.append(near("MACs, G", here.macs / 1e9, paper.macs_g, 0.05))
        return found
    return {
        "without_snrp": [
            near("fewer parameters, M", fewer_m, 2.62, 0.15),
            Check(quantity="fewer MACs, G", value=fewer_g, low=0.0, high=0.3),
        ],
        "without_damf": [
            near("fewer parameters, M", fewer_m, 2.44, 0.15),
            near("fewer MACs, G", fewer_g, 20.6, 0.25),
        ],
        "without_stc": [
            Check(quantity="fewer parameters, M", value=fewer_m, low=0.05, high=0.4),
            Check(quantity="MACs / full", value=here.macs / full.macs, low=1.3, high=None),
        ],
        "rm_straight": [
            Check(quantity="fewer parameters, M", value=fewer_m, low=0.0, high=0.0),
            Check(quantity="fewer MACs, G", value=fewer_g, low=-0.1, high=0.1),
        ],
    }[recipe]
