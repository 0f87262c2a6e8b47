"""The tables of a study, with intervals and next to the paper's own figures: ablations, and noise (Table IX)."""

from dataclasses import dataclass

import numpy as np

from sdavs_model.analysis.sound_conditions import ORIGINAL, factor_condition
from sdavs_model.recipes import RecipeBook
from sdavs_platform.tuning.report.comparison import Comparison, compare
from sdavs_platform.tuning.store import TrialRecord
from sdavs_platform.tuning.study import SWAPPED, Study

PAPER_SETS = ("S4", "MS3")
GAP = "gap"

# The paper's Table IX: J and F in per cent on MS3, Swin-B at 384 px.
PAPER_NOISE: dict[str, dict[str, tuple[float, float]]] = {
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
class Row:
    """One recipe on one test split."""

    recipe: str
    trained_as: str
    """Differs from `recipe` where two recipes give the same model."""
    about: str
    miou: Comparison | None
    """None as long as no trial of the recipe has finished."""
    fscore: Comparison | None
    gap: Comparison | None
    """Difference of J between the right and swapped sound; None also where that was not scored."""
    paper: dict[str, tuple[float, float]]
    """S4, MS3 -> J and F in per cent."""
    paper_difference: dict[str, float]
    """S4, MS3 -> difference in J from the paper's full model, in points."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One of the paper's tables on one of our test splits."""

    title: str
    split: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class NoiseRow:
    """One model with one sound on one test split."""

    recipe: str
    sound: str
    miou: Comparison | None
    """Compared with the same model on the original sound; None as long as no trial has finished."""
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


def ablation_tables(
    study: Study, book: RecipeBook, trials: list[TrialRecord], splits: list[str]
) -> list[Table]:
    """Every table of the study on every test split; splits are never averaged."""
    titles = {"selected": "Selected recipes", **book.titles}
    return [
        Table(
            title=titles[table],
            split=split,
            rows=tuple(_row(recipe, study, book, trials, split) for recipe in names),
        )
        for split in splits
        for table, names in study.tables.items()
        if table in titles
    ]


def noise_tables(study: Study, trials: list[TrialRecord], splits: list[str]) -> list[NoiseTable]:
    """One table per split; none for a study without noise."""
    if not set(PAPER_NOISE["full"]) <= set(study.conditions):
        return []
    return [
        NoiseTable(
            split=split,
            rows=tuple(
                _noise_row(trials, recipe, sound, split)
                for recipe in PAPER_NOISE
                for sound in study.conditions
            ),
        )
        for split in splits
    ]


def clip_scores(
    trials: list[TrialRecord], variant: str, split: str, metric: str, condition: str = ORIGINAL
) -> dict[int, list[float]]:
    """Training seed -> score of every clip, for the finished trials of a variant that have it; `GAP` is one, too."""
    if metric == GAP:
        right = clip_scores(trials, variant, split, "miou")
        swapped = clip_scores(trials, variant, split, "miou", SWAPPED)
        return {seed: np.subtract(right[seed], swapped[seed]).tolist() for seed in swapped}
    return {
        trial.values["seed"]: trial.scores[condition][split][metric]
        for trial in trials
        if trial.variant == variant and trial.state == "finished" and split in trial.scores.get(condition, {})
    }


def clip_assets(trials: list[TrialRecord], split: str) -> list[list[str]]:
    """The assets of each clip of a split, the same for all trials; empty if no trial records them."""
    return next((trial.assets[split] for trial in trials if split in trial.assets), [])


def verdicts(tables: list[Table]) -> list[str]:
    """A sentence for each split and figure: which effects the study shows, and which it does not.

    An effect is shown if the interval of the difference from the full model excludes 0.
    """
    sentences = []
    for split in dict.fromkeys(table.split for table in tables):
        rows = {row.recipe: row for table in tables if table.split == split for row in table.rows}
        for label, metric in (("J", "miou"), ("F", "fscore"), ("J - J swapped", "gap")):
            found: dict[str, Comparison] = {
                name: comparison
                for name, row in rows.items()
                if (comparison := getattr(row, metric)) is not None and comparison.low is not None
            }
            if not found:
                continue
            shown = [name for name, comparison in found.items() if comparison.is_clear]
            not_shown = [name for name, comparison in found.items() if not comparison.is_clear]
            sentences.append(
                f"{split}, {label}: the interval excludes 0 for {', '.join(shown) or 'no recipe'}; "
                f"it includes 0, so that no effect is shown, for {', '.join(not_shown) or 'no recipe'}."
            )
    return sentences


def resampled(tables: list[Table]) -> str:
    """What the intervals of the tables resample in addition to seeds, in words."""
    found = [row.miou for table in tables for row in table.rows if row.miou is not None]
    if found and all(comparison.num_assets for comparison in found):
        counts = {table.split: row.miou.num_assets for table in tables for row in table.rows if row.miou}
        listed = ", ".join(f"{split} {count}" for split, count in counts.items())
        return f"the photographs and recordings that clips are composed of ({listed})"
    return "clips"


def _row(recipe: str, study: Study, book: RecipeBook, trials: list[TrialRecord], split: str) -> Row:
    variant, full = study.trained_as[recipe], study.reference
    paper = book.published.get(recipe, {})
    return Row(
        recipe=recipe,
        trained_as=variant,
        about=(book.recipes[recipe].__doc__ or "").split(". ")[0].rstrip("."),
        miou=_compared(trials, variant, full, split, "miou"),
        fscore=_compared(trials, variant, full, split, "fscore"),
        gap=_compared(trials, variant, full, split, GAP),
        paper=dict(paper),
        paper_difference={
            name: paper[name][0] - book.published[full][name][0] for name in PAPER_SETS if name in paper
        },
    )


def _compared(
    trials: list[TrialRecord], variant: str, full: str, split: str, metric: str
) -> Comparison | None:
    scores = clip_scores(trials, variant, split, metric)
    if not scores:
        return None
    reference = None if variant == full else clip_scores(trials, full, split, metric)
    return compare(scores, reference, assets=clip_assets(trials, split))


def _noise_row(trials: list[TrialRecord], recipe: str, sound: str, split: str) -> NoiseRow:
    return NoiseRow(
        recipe=recipe,
        sound=sound,
        miou=_with_noise(trials, recipe, sound, split, "miou"),
        fscore=_with_noise(trials, recipe, sound, split, "fscore"),
        paper=PAPER_NOISE[recipe][sound],
        paper_loss=PAPER_NOISE[recipe][sound][0] - PAPER_NOISE[recipe][ORIGINAL][0],
    )


def _with_noise(
    trials: list[TrialRecord], recipe: str, sound: str, split: str, metric: str
) -> Comparison | None:
    scores = clip_scores(trials, recipe, split, metric, sound)
    if not scores:
        return None
    original = None if sound == ORIGINAL else clip_scores(trials, recipe, split, metric)
    return compare(scores, original, assets=clip_assets(trials, split))
