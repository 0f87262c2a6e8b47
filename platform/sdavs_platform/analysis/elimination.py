"""Tests whether elimination scores separate sounds on screen from sounds off screen and from classes without sound."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from sdavs_model.analysis.elimination import ScoredClass, scored_classes, separation
from sdavs_model.analysis.listening import OffScreenSound
from sdavs_platform.analysis.inputs import AnalysisInputs
from sdavs_platform.analysis.result import AnalysisResult, Row, flat_metrics
from sdavs_platform.tables import text_table

OWN, REPLACED = "own sound", "off-screen sound"
"""The sound of a clip, and one of which nothing is visible, see `OffScreenSound`."""
COMPARED = {
    "hidden source": (OWN, "off screen"),
    "another clip's sound": (REPLACED, "off screen"),
    "class without sound": (OWN, "silent"),
}
"""What sounds on screen are compared with: the clip's sound, and the record of a class in it."""
NUM_RESAMPLES = 500


def require_elimination(model: Any) -> None:
    """Raises ValueError if the model does not report what it hears and sees."""
    if not model.config.heard_classes:
        raise ValueError("elimination: the model has no scores of elimination (ablation)")


def run(inputs: AnalysisInputs) -> AnalysisResult:
    """The area under the ROC curve of `seen`, and of nearness for comparison.

    Raises:
        ValueError: the data set does not record what sounds on screen and off.
    """
    source, names = inputs.clips.source, inputs.subject.loaded.config.heard_classes
    if not all(source.sounding_by_second[index] for index in inputs.indices):
        raise ValueError(
            f"elimination: {inputs.data} does not record second by second what sounds on screen and off"
        )
    others = OffScreenSound(inputs.clips)
    rows: list[Row] = []
    num_sounding = 0
    for index, item in inputs.walk("elimination"):
        on_screen, heard = source.sounding_by_second[index], source.heard_by_second[index]
        num_sounding += sum(len(now) for now in on_screen)
        off_screen = [all_now - visible for all_now, visible in zip(heard, on_screen, strict=True)]
        rows += _rows(inputs, item, item["log_mel"], OWN, names, on_screen, off_screen)
        replaced = others.replace_sound(index, item["log_mel"])
        theirs = source.heard_by_second[others.partners[index]]
        nobody: list[set[str]] = [set() for _ in theirs]
        rows += _rows(inputs, item, replaced, REPLACED, names, nobody, theirs)
    visible = [row for row in rows if (row["sound"], row["where"]) == (OWN, "on screen")]
    figures: dict[str, dict[str, float]] = {}
    for name, wanted in COMPARED.items():
        against = [row for row in rows if (row["sound"], row["where"]) == wanted]
        low, high = _interval(visible, against, seed=inputs.seed)
        figures[name] = {
            "seen": separation([row["seen"] for row in visible], [row["seen"] for row in against]),
            "low": low,
            "high": high,
            "nearness": separation(
                [-row["distance"] for row in visible], [-row["distance"] for row in against]
            ),
            "classes": len(against),
        }
    found = len(visible) / num_sounding if num_sounding else float("nan")
    return AnalysisResult(
        name="elimination",
        numbers=inputs.head | {"auc": figures, "on_screen": len(visible), "among_nearest": found},
        rows=rows,
        pictures={},
        metrics=flat_metrics({"auc": figures, "among_nearest": found}),
        table=_table(inputs, figures, num_visible=len(visible), found=found),
    )


@torch.inference_mode()
def _rows(
    inputs: AnalysisInputs,
    item: dict[str, Any],
    log_mel: torch.Tensor,
    sound: str,
    names: tuple[str, ...],
    on_screen: list[set[str]],
    off_screen: list[set[str]],
) -> list[Row]:
    """A row for each class that the model reports to hear in a second of the clip with this sound."""
    frames, heard = inputs.tensors(item | {"log_mel": log_mel})
    said = inputs.model.segment(frames, heard).heard
    assert said is not None
    found: Iterable[ScoredClass] = scored_classes(
        said, names=names, on_screen=on_screen, off_screen=off_screen
    )
    return [
        {"clip": item["name"], "sound": sound}
        | {"second": each.second, "class": each.name, "where": each.where}
        | {"seen": each.seen, "distance": each.distance}
        for each in found
    ]


def _interval(visible: list[Row], against: list[Row], *, seed: int) -> tuple[float, float]:
    """95 % of the separation of `seen`, by resampling clips; NaN without rows."""
    by_clip: dict[str, tuple[list[float], list[float]]] = {}
    for number, rows in enumerate((visible, against)):
        for row in rows:
            by_clip.setdefault(row["clip"], ([], []))[number].append(row["seen"])
    pairs = [*by_clip.values()]
    rng = np.random.default_rng(seed)
    areas = []
    for _ in range(NUM_RESAMPLES if visible and against else 0):
        drawn = [pairs[i] for i in rng.integers(len(pairs), size=len(pairs))]
        higher, lower = ([value for pair in drawn for value in pair[number]] for number in (0, 1))
        if higher and lower:
            areas.append(separation(higher, lower))
    if not areas:
        return float("nan"), float("nan")
    low, high = np.percentile(areas, [2.5, 97.5])
    return float(low), float(high)


def _table(
    inputs: AnalysisInputs, figures: dict[str, dict[str, float]], *, num_visible: int, found: float
) -> str:
    header = ["sounds on screen against", "AUC of seen", "95 % from", "to", "AUC of nearness", "classes"]
    rows = [
        [
            f"  {name}",
            *(f"{each[key]:.3f}" for key in ("seen", "low", "high", "nearness")),
            str(each["classes"]),
        ]
        for name, each in figures.items()
    ]
    return "\n".join(
        [
            f"{inputs.title}; {num_visible} classes on screen, {found:.0%} of those that sound are among the k nearest",
            text_table(header, rows),
            "  (0.5 is chance; bootstrap over clips)",
        ]
    )
