"""Distribution of SNRP's responses over space and channels (paper figure 8)."""

from typing import Any

from sdavs_model.analysis.clip_scores import annotated, sounding_masks
from sdavs_model.analysis.snrp_gates import LevelDistribution, snrp_responses
from sdavs_platform.analysis.draw_response import distributions, surfaces
from sdavs_platform.analysis.inputs import AnalysisInputs, Gallery
from sdavs_platform.analysis.result import AnalysisResult, Row, flat_metrics, means
from sdavs_platform.tables import text_table
from sdavs_platform.tracking.plots import as_pixels

CONTRASTS = ("contrast_before", "contrast_after", "gate_contrast")


def run(inputs: AnalysisInputs, *, level: int) -> AnalysisResult:
    """Contrast and gates of all levels; surface plots of one.

    Args:
        level: level whose responses are plotted as surfaces; 1 has the largest maps.

    Raises:
        ValueError: the model has no SNRP.
    """
    gallery = Gallery(inputs, num_clips=3)
    levels: dict[str, LevelDistribution] = {}
    rows: list[Row] = []
    preprocess = inputs.subject.loaded.preprocessor.config
    for _, item in inputs.walk("responses"):
        responses = snrp_responses(inputs.model, *inputs.tensors(item))
        valid, masks = annotated(item), sounding_masks(item)
        for number, found in responses.items():
            values = levels.setdefault(number, LevelDistribution()).update(found, masks, valid)
            rows.append({"clip": item["name"], "level": int(number)} | values)
        if (t := gallery.turn(masks)) is not None:
            shown = responses[str(level)]
            pixels = as_pixels(item["frames"][t], preprocess)
            gallery.shown.append((pixels, masks[t], shown.before[t].cpu(), shown.after[t].cpu()))
    numbers = {
        number: means(rows, [key for key in CONTRASTS if key in rows[0]], level=int(number))
        | distribution.numbers()
        for number, distribution in levels.items()
    }
    return AnalysisResult(
        name="response",
        numbers=inputs.head | {"levels": numbers},
        rows=rows,
        pictures=gallery.drawn(f"surfaces_level{level}", surfaces) | {"distributions": distributions(levels)},
        metrics=flat_metrics({f"level_{number}": values for number, values in numbers.items()}),
        table=_table(inputs, numbers),
    )


def _table(inputs: AnalysisInputs, numbers: dict[str, Any]) -> str:
    keys = list(numbers["1"])
    rows = [[key.replace("_", " "), *(numbers[level][key] for level in numbers)] for key in keys]
    return "\n".join(
        [
            f"{inputs.title}; level 1 is the largest map",
            text_table(["", *(f"level {level}" for level in numbers)], rows),
            "contrast: mean on sounding objects over the mean elsewhere (1: no preference); a channel weight of 1 "
            "changes nothing, suppressed is below 0.8, enhanced above 1.2",
        ]
    )
