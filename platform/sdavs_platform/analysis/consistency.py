"""Consistency of the audio and visual streams before and after DAMF (paper Table VII)."""

from typing import Any

from sdavs_model.analysis.consistency import STAGES, LevelConsistency, level_streams
from sdavs_platform.analysis.draw_curves import consistency_bars
from sdavs_platform.analysis.inputs import AnalysisInputs
from sdavs_platform.analysis.result import AnalysisResult, flat_metrics, mean, means
from sdavs_platform.tables import text_table

MEASURES = ("cka", "kl", "js")


def run(inputs: AnalysisInputs) -> AnalysisResult:
    """CKA, KL and JS of each level, and their means over the levels.

    Raises:
        ValueError: the model has no DAMF.
    """
    found: dict[str, LevelConsistency] = {}
    rows = []
    for _, item in inputs.walk("consistency"):
        for level, pairs in level_streams(inputs.model, *inputs.tensors(item)).items():
            clip = found.setdefault(level, LevelConsistency()).update(pairs)
            rows += [{"clip": item["name"], "level": int(level), "stage": s} | clip[s] for s in STAGES]
    levels: dict[str, dict[str, dict[str, float]]] = {}
    for level, consistency in found.items():
        cka = consistency.cka()
        levels[level] = {stage: {"cka": cka[stage]} for stage in STAGES}
        for stage, values in levels[level].items():
            values |= means(rows, ("kl", "js"), level=int(level), stage=stage)
    overall = {s: {key: mean(level[s][key] for level in levels.values()) for key in MEASURES} for s in STAGES}
    return AnalysisResult(
        name="consistency",
        numbers=inputs.head | {"levels": levels, "mean": overall},
        rows=rows,
        pictures={"consistency": consistency_bars(levels)},
        metrics=flat_metrics(overall),
        table=_table(inputs, levels, overall),
    )


def _table(inputs: AnalysisInputs, levels: dict[str, Any], overall: dict[str, Any]) -> str:
    rows = [
        [f"{name}, {stage} DAMF", *(values[stage][key] for key in MEASURES)]
        for name, values in [*((f"level {level}", v) for level, v in levels.items()), ("mean", overall)]
        for stage in STAGES
    ]
    return "\n".join(
        [
            f"{inputs.title}; level 1 is the largest map",
            text_table(["", "CKA", "KL (nats)", "JS (nats)"], rows),
        ]
    )
