"""Attention in both directions, and both streams before and after DAMF (paper figure 6)."""

from typing import Any

import torch

from sdavs_model.analysis.clip_scores import annotated, sounding_masks
from sdavs_model.analysis.damf_attention import (
    AUDIO_AFTER,
    AUDIO_BEFORE,
    AUDIO_QUERIES,
    VIDEO_AFTER,
    VIDEO_BEFORE,
    VIDEO_QUERIES,
    DAMFMaps,
    concentration,
    damf_maps,
)
from sdavs_model.analysis.feature_maps import measures
from sdavs_platform.analysis.draw_clips import Panel, picture_rows
from sdavs_platform.analysis.inputs import AnalysisInputs, Gallery
from sdavs_platform.analysis.result import AnalysisResult, Row, flat_metrics, means
from sdavs_platform.tables import text_table

MAPS = (VIDEO_BEFORE, AUDIO_BEFORE, AUDIO_QUERIES, VIDEO_QUERIES, VIDEO_AFTER, AUDIO_AFTER)
MEASURES = ("focus", "points_at", "concentration")


def run(inputs: AnalysisInputs, *, level: int) -> AnalysisResult:
    """Focus, pointing game and concentration of all levels; plots of one.

    Args:
        level: level to plot; 1 has the largest maps.

    Raises:
        ValueError: the model has no DAMF.
    """
    gallery = Gallery(inputs)
    rows: list[Row] = []
    for _, item in inputs.walk("attention"):
        maps = damf_maps(inputs.model, *inputs.tensors(item))
        if (second := gallery.turn(sounding_masks(item))) is not None:
            gallery.shown.append(_panels(inputs, item, maps, str(level), second))
        rows += _rows(item, maps)
    present = [name for name in MAPS if name in maps.levels[str(level)]]
    found = {
        number: {name: means(rows, MEASURES, level=int(number), map=name) for name in present}
        for number in maps.levels
    }
    missing = [name for name in MAPS if name not in present]
    notes = [f"ablation.direction leaves out: {', '.join(missing)}"] if missing else []
    return AnalysisResult(
        name="attention",
        numbers=inputs.head | {"measures": found, "notes": notes},
        rows=rows,
        pictures=gallery.drawn(f"attention_level{level}", picture_rows),
        metrics=flat_metrics({f"level_{number}": names for number, names in found.items()}),
        table=_table(inputs, found, notes),
    )


def _rows(item: dict[str, Any], maps: DAMFMaps) -> list[Row]:
    valid, masks = annotated(item), sounding_masks(item)
    rows = []
    for number, named in maps.levels.items():
        heats = {name: heat[0].cpu()[valid] for name, heat in named.items()}
        for name, values in measures(heats, masks[valid]).items():
            weights = torch.nn.functional.normalize(heats[name].flatten(1), p=1, dim=1)
            row = {"clip": item["name"], "level": int(number), "map": name}
            rows.append(row | values | {"concentration": float(concentration(weights).mean())})
    return rows


def _panels(
    inputs: AnalysisInputs, item: dict[str, Any], maps: DAMFMaps, level: str, second: int
) -> list[Panel]:
    scene = Panel.scene(item, second, inputs.subject.loaded.preprocessor.config)
    shown = maps.levels[level]
    heats = [scene.heat(shown[name][0, second], name.replace(" ", "\n", 1)) for name in MAPS if name in shown]
    return [scene, *heats, scene.prediction(maps.logits[0, second] > 0)]


def _table(inputs: AnalysisInputs, found: dict[str, Any], notes: list[str]) -> str:
    rows = [
        [f"level {number}, {name}", *(values[key] for key in MEASURES)]
        for number, names in found.items()
        for name, values in names.items()
    ]
    return "\n".join(
        [
            f"{inputs.title}; level 1 is the largest map",
            text_table(["", "focus", "hits", "concentration"], rows),
            "focus: mean on sounding objects over the mean on the whole frame (1: no preference); hits: fraction of "
            "frames whose maximum lies on one; concentration: 0 is uniform, 1 is a single position",
            *notes,
        ]
    )
