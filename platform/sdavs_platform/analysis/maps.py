"""Feature maps and Grad-CAM at the three points of SNRP (paper figure 5)."""

from typing import Any

from sdavs_model.analysis.clip_scores import annotated, sounding_masks
from sdavs_model.analysis.feature_maps import POINTS, SNRPMaps, measures, snrp_maps
from sdavs_platform.analysis.draw_clips import Panel, picture_rows
from sdavs_platform.analysis.inputs import AnalysisInputs, Gallery
from sdavs_platform.analysis.result import AnalysisResult, Row, flat_metrics, means
from sdavs_platform.tables import text_table

KINDS = {"features": "feature map", "grad_cam": "Grad-CAM"}
MEASURES = ("focus", "points_at")


def run(inputs: AnalysisInputs, *, level: int) -> AnalysisResult:
    """Focus and pointing game of all levels; plots of one.

    Args:
        level: level to plot; 1 has the largest maps.

    Raises:
        ValueError: the model has no SNRP.
    """
    gallery = Gallery(inputs)
    rows: list[Row] = []
    for _, item in inputs.walk("feature maps"):
        maps = snrp_maps(inputs.model, *inputs.tensors(item))
        masks = sounding_masks(item)
        if (second := gallery.turn(masks)) is not None:
            gallery.shown.append(_panels(inputs, item, maps, str(level), second))
        rows += _rows(item, maps)
    found = {
        kind: {
            str(number): {
                point: means(rows, MEASURES, map=kind, level=number, point=point) for point in POINTS
            }
            for number in range(1, len(maps.levels) + 1)
        }
        for kind in KINDS
    }
    return AnalysisResult(
        name="maps",
        numbers=inputs.head | {"measures": found},
        rows=rows,
        pictures=gallery.drawn(f"maps_level{level}", picture_rows),
        metrics=flat_metrics(
            {kind: {f"level_{number}": found[kind][number] for number in found[kind]} for kind in KINDS}
        ),
        table=_table(inputs, found),
    )


def _rows(item: dict[str, Any], maps: SNRPMaps) -> list[Row]:
    valid, masks = annotated(item), sounding_masks(item)
    rows = []
    for number, level in maps.levels.items():
        for kind in KINDS:
            heats = {point: heat[0].cpu()[valid] for point, heat in getattr(level, kind).items()}
            for point, values in measures(heats, masks[valid]).items():
                rows.append(
                    {"clip": item["name"], "map": kind, "level": int(number), "point": point} | values
                )
    return rows


def _panels(
    inputs: AnalysisInputs, item: dict[str, Any], maps: SNRPMaps, level: str, second: int
) -> list[Panel]:
    scene = Panel.scene(item, second, inputs.subject.loaded.preprocessor.config)
    shown = maps.levels[level]
    return [
        scene,
        *(scene.heat(shown.features[p][0, second], f"features\n{p}") for p in POINTS),
        *(scene.heat(shown.grad_cam[p][0, second], f"Grad-CAM\n{p}") for p in POINTS),
        scene.prediction(maps.logits[0, second] > 0),
    ]


def _table(inputs: AnalysisInputs, found: dict[str, Any]) -> str:
    rows = [
        [f"{KINDS[kind]}, level {number}", *(points[p][key] for key in MEASURES for p in POINTS)]
        for kind, levels in found.items()
        for number, points in levels.items()
    ]
    header = ["", *(f"{what} {point}" for what in ("focus", "hits") for point in POINTS)]
    return "\n".join(
        [
            f"{inputs.title}; level 1 is the largest map",
            text_table(header, rows),
            "focus: mean on sounding objects over the mean on the whole frame (1: no preference); "
            "hits: fraction of frames whose maximum lies on one",
        ]
    )
