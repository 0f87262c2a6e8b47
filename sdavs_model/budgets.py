"""The paper's Table X, and the bounds within which the model has to stay near it.

Table X: Swin-B, 384 px, one clip of five frames. Its "FLOPs" are multiply-accumulates: the bare backbone alone has
236 G of them. Its frame rates were measured on the authors' A6000.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sdavs_model.benchmark import Cost, Speed
from sdavs_model.config import SDAVSConfig

SWIN_B = "swin_base_patch4_window12_384"
PVT_B5 = "pvt_v2_b5"


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """One row of the paper's Table X; None where the paper gives no figure."""

    label: str
    parameters_m: float
    macs_g: float | None
    frames_per_s: float


# By backbone and recipe. The PVT row is derived: 81.45 M for the backbone, and the rest as in Swin's rows; its frame
# rate is from the text of IV-F.
TABLE_X: dict[str, dict[str, PaperRow]] = {
    SWIN_B: {
        "full": PaperRow(label="Ours", parameters_m=103.2, macs_g=300.9, frames_per_s=31.2),
        "without_snrp": PaperRow(label="w/o SNRP", parameters_m=100.58, macs_g=300.85, frames_per_s=31.1),
        "without_damf": PaperRow(label="w/o DAMF", parameters_m=100.76, macs_g=280.31, frames_per_s=33.5),
        "without_stc": PaperRow(label="w/o STC", parameters_m=103.0, macs_g=426.7, frames_per_s=22.0),
        "rm_straight": PaperRow(label="w/o RM", parameters_m=103.2, macs_g=300.88, frames_per_s=31.2),
    },
    PVT_B5: {"full": PaperRow(label="Ours", parameters_m=97.8, macs_g=None, frames_per_s=32.25)},
}

# Largest ratio of the model's time to its bare backbone's. By Table X's multiply-accumulates it would be 1.28.
MAX_RATIO = 1.35


@dataclass(frozen=True, kw_only=True)
class Check:
    """A quantity and the bounds it must lie within, in its own unit."""

    quantity: str
    value: float
    low: float
    high: float | None
    """None: no upper bound."""

    @property
    def within(self) -> bool:
        """Whether the value lies within the bounds."""
        return self.low <= self.value and (self.high is None or self.value <= self.high)


def paper_row(config: SDAVSConfig, recipe: str) -> PaperRow | None:
    """The paper's row for this model, or None if the config is not one of the paper's."""
    plain = SDAVSConfig()
    keep = {f: getattr(plain, f) for f in ("image_size", "num_frames", "width", "num_heads", "num_classes")}
    if any(getattr(config, name) != value for name, value in keep.items()):
        return None
    return TABLE_X.get(config.backbone, {}).get(recipe)


def checks(backbone: str, recipe: str, costs: Mapping[str, Cost]) -> list[Check]:
    """The checks of one row.

    Args:
        costs: costs of the same backbone by recipe; must hold `recipe` and "full".
    """
    here, full = costs[recipe], costs["full"]
    fewer_m, fewer_g = (full.parameters - here.parameters) / 1e6, (full.macs - here.macs) / 1e9
    if recipe == "full":
        paper = TABLE_X[backbone]["full"]
        found = [_near("parameters, M", here.parameters / 1e6, paper.parameters_m, 0.02)]
        if paper.macs_g is not None:
            found.append(_near("MACs, G", here.macs / 1e9, paper.macs_g, 0.05))
        return found
    return {
        "without_snrp": [
            _near("fewer parameters, M", fewer_m, 2.62, 0.15),
            Check(quantity="fewer MACs, G", value=fewer_g, low=0.0, high=0.3),
        ],
        "without_damf": [
            _near("fewer parameters, M", fewer_m, 2.44, 0.15),
            _near("fewer MACs, G", fewer_g, 20.6, 0.25),
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


def ratio_check(speed: Speed) -> Check:
    """The check of the whole model's time against its bare backbone's."""
    return Check(quantity="whole / bare backbone", value=speed.ratio, low=1.0, high=MAX_RATIO)


def _near(quantity: str, value: float, target: float, tolerance: float) -> Check:
    return Check(quantity=quantity, value=value, low=target * (1 - tolerance), high=target * (1 + tolerance))
