"""The noise study (the paper's Table IX): what noise under the sound costs a model with and without SNRP."""

from dataclasses import dataclass

from sdavs_model.analysis.noise import ORIGINAL, factor_condition
from sdavs_platform.tuning.report.ablation import clip_scores
from sdavs_platform.tuning.report.compare import Comparison, compare
from sdavs_platform.tuning.store import TrialRecord
from sdavs_platform.tuning.study import Study

# J and F in per cent on MS3, Swin-B at 384 px.
PAPER: dict[str, dict[str, tuple[float, float]]] = {
    "without_snrp": {
        ORIGINAL: (70.7, 79.0),
        factor_condition("brownian"): (68.8, 76.5),
        factor_condition("moving train"): (69.5, 77.3),
    },
    "full": {
        ORIGINAL: (72.3, 80.8),
        factor_condition("brownian"): (72.1, 80.5),
        factor_condition("moving train"): (72.2, 80.8),
    },
}


@dataclass(frozen=True, kw_only=True)
class NoiseRow:
    """One model with one sound, on one test split."""

    recipe: str
    sound: str
    miou: Comparison | None
    """Compared with the same model and the original sound; None while no trial has finished."""
    fscore: Comparison | None
    paper: tuple[float, float]
    """J and F in per cent, MS3."""
    paper_loss: float
    """Difference in J from the original sound, in points."""


@dataclass(frozen=True, kw_only=True)
class NoiseTable:
    """Table IX on one of our test splits."""

    split: str
    rows: tuple[NoiseRow, ...]


def noise_tables(study: Study, trials: list[TrialRecord], splits: list[str]) -> list[NoiseTable]:
    """One table a split; none for a study without noise."""
    if len(study.conditions) < 2:
        return []
    return [
        NoiseTable(
            split=split,
            rows=tuple(_row(trials, recipe, sound, split) for recipe in PAPER for sound in study.conditions),
        )
        for split in splits
    ]


def _row(trials: list[TrialRecord], recipe: str, sound: str, split: str) -> NoiseRow:
    return NoiseRow(
        recipe=recipe,
        sound=sound,
        miou=_compared(trials, recipe, sound, split, "miou"),
        fscore=_compared(trials, recipe, sound, split, "fscore"),
        paper=PAPER[recipe][sound],
        paper_loss=PAPER[recipe][sound][0] - PAPER[recipe][ORIGINAL][0],
    )


def _compared(
    trials: list[TrialRecord], recipe: str, sound: str, split: str, metric: str
) -> Comparison | None:
    scores = clip_scores(trials, recipe, split, metric, sound)
    if not scores:
        return None
    original = None if sound == ORIGINAL else clip_scores(trials, recipe, split, metric)
    return compare(scores, original)
