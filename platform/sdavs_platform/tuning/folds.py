"""Cross-validation: the out-of-fold scores of a sweep, and their mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from sdavs_platform.tuning.store import TrialRecord

FOLD_KEY = "data.fold"


@dataclass(frozen=True, kw_only=True)
class FoldScores:
    """Out-of-fold scores, each at the epoch that scored best."""

    rows: list[tuple[int, int, dict[str, float]]]
    """Fold, seed, and its scores: "miou" (J) and "fscore" (F)."""

    @property
    def mean(self) -> dict[str, float]:
        """Over the folds. Every fold chose its epoch by its own score, so this is a little too high."""
        return {name: mean(scores[name] for *_, scores in self.rows) for name in ("miou", "fscore")}

    @property
    def spread(self) -> dict[str, float]:
        """Standard deviation over the folds; 0 of a single one."""
        if len(self.rows) < 2:
            return {"miou": 0.0, "fscore": 0.0}
        return {name: stdev(scores[name] for *_, scores in self.rows) for name in ("miou", "fscore")}


def fold_scores(trials: Sequence[TrialRecord]) -> FoldScores | None:
    """The scores of the folds that have finished; None of other sweeps, and before the first has."""
    rows = [
        (
            trial.values[FOLD_KEY],
            trial.values.get("seed", 0),
            {name: trial.best[f"val_{name}"] for name in ("miou", "fscore")},
        )
        for trial in trials
        if FOLD_KEY in trial.values and trial.state == "finished"
    ]
    return FoldScores(rows=sorted(rows, key=lambda row: row[:2])) if rows else None
