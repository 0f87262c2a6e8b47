"""The tables of a study of architectures: quality with intervals, false positives and cost side by side."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sdavs_model.analysis.sound_conditions import OFF_SCREEN, ORIGINAL, SILENCE, WHITE_NOISE
from sdavs_model.metrics.listening import combined_scores
from sdavs_model.recipes import recipes_of
from sdavs_platform.tuning.report.comparison import Comparison, compare
from sdavs_platform.tuning.report.study_tables import clip_assets
from sdavs_platform.tuning.store import TrialRecord
from sdavs_platform.tuning.study import ARCHITECTURES_STUDY, Study

SOUNDS = {"right": ORIGINAL, "silence": SILENCE, "noise": WHITE_NOISE, "off-screen": OFF_SCREEN}
"""The condition of a study for each of AVSBench-Robust's sounds."""


@dataclass(frozen=True, kw_only=True)
class ArchitectureRow:
    """One variant on one test split; None as long as no trial of it has finished."""

    variant: str
    about: str
    miou: Comparison | None
    fscore: Comparison | None
    fpr: dict[str, Comparison]
    """Sound that belongs to nothing in the picture -> false positive rate; without those that the data do not allow."""
    robust: dict[str, list[float]]
    """Combined figure of AVSBench-Robust -> its value for each seed, see `combined_scores`; empty where the data, or
    records of earlier versions, do not allow it."""
    parameters_m: float | None
    """Parameters without the audio encoder, in millions."""
    gmacs: float | None
    """Multiply-accumulates of one clip, in billions."""
    clips_per_s: float | None
    """Clips per second, one at a time, on a training worker; the median over seeds."""


@dataclass(frozen=True, kw_only=True)
class ArchitectureTable:
    """All variants on one test split; the first is the one that the others are compared with."""

    split: str
    sounds: tuple[str, ...]
    """The conditions of `ArchitectureRow.fpr`."""
    rows: tuple[ArchitectureRow, ...]


def architecture_tables(
    study: Study, trials: Sequence[TrialRecord], splits: Sequence[str]
) -> list[ArchitectureTable]:
    """One table for each test split; none for a study of something else."""
    if ARCHITECTURES_STUDY not in study.tables:
        return []
    sounds = study.conditions[1:]
    return [
        ArchitectureTable(
            split=split,
            sounds=sounds,
            rows=tuple(_row(variant, study, trials, split) for variant in study.variants),
        )
        for split in splits
    ]


def _row(variant: str, study: Study, trials: Sequence[TrialRecord], split: str) -> ArchitectureRow:
    architecture = study.values[variant]["model.architecture"]
    book = recipes_of(architecture)
    recipe = variant.removeprefix(architecture).removeprefix("_") or book.reference
    assets = clip_assets(list(trials), split)
    costs = [trial.cost for trial in trials if trial.variant == variant and trial.cost]

    def compared(metric: str, condition: str = ORIGINAL) -> Comparison | None:
        own = _scores(trials, variant, split, metric, condition)
        reference = _scores(trials, study.reference, split, metric, condition)
        if not own:
            return None
        return compare(own, None if variant == study.reference else reference, assets=assets)

    fpr = {condition: compared("fpr", condition) for condition in study.conditions[1:]}
    return ArchitectureRow(
        variant=variant,
        about=(book.recipes[recipe].__doc__ or "").split(". ")[0].rstrip("."),
        miou=compared("miou"),
        fscore=compared("fscore"),
        robust=_robust(trials, variant, split),
        fpr={condition: found for condition, found in fpr.items() if found is not None},
        parameters_m=costs[0]["parameters_m"] if costs else None,
        gmacs=costs[0]["gmacs"] if costs else None,
        clips_per_s=1000 / statistics.median(cost["latency_ms"] for cost in costs) if costs else None,
    )


def _robust(trials: Sequence[TrialRecord], variant: str, split: str) -> dict[str, list[float]]:
    """Every combined figure of the finished trials of a variant that were scored under all sounds, by seed."""
    found: dict[str, list[float]] = {}
    for trial in trials:
        scores = {
            sound: {
                metric: value
                for metric in ("miou", "fscore", "fpr")
                if (value := trial.mean_score(split, metric, condition)) is not None
            }
            for sound, condition in SOUNDS.items()
        }
        if (
            trial.variant == variant
            and trial.state == "finished"
            and all(len(own) == 3 for own in scores.values())
        ):
            for name, value in combined_scores(scores).items():
                found.setdefault(name, []).append(value)
    return found


def _scores(
    trials: Sequence[TrialRecord], variant: str, split: str, metric: str, condition: str
) -> dict[int, list[float]]:
    """Training seed -> score of every clip, for the finished trials of a variant that have it."""
    found: dict[int, list[float]] = {}
    for trial in trials:
        values = trial.scores.get(condition, {}).get(split, {}).get(metric)
        if trial.variant == variant and trial.state == "finished" and values:
            found[trial.values["seed"]] = values
    return found
