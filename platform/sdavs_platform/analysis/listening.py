"""The listening test: five sounds for each clip. Not in the paper, see its limitation IV-H."""

from typing import Any

from sdavs_model.analysis.clip_scores import annotated, score_clip, sounding_masks
from sdavs_model.analysis.listening import (
    NOISE_ONLY,
    OFF_SCREEN,
    RIGHT,
    SILENCE,
    SWAPPED,
    five_sounds,
    nothing_visible_sounds,
)
from sdavs_model.analysis.noise_mixing import BrownianNoise
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.metrics.listening import marked_fraction
from sdavs_platform.analysis.draw_clips import Panel, picture_rows
from sdavs_platform.analysis.draw_curves import listening_bars
from sdavs_platform.analysis.inputs import AnalysisInputs, Gallery
from sdavs_platform.analysis.result import AnalysisResult, Row, flat_metrics, means
from sdavs_platform.tables import text_table

CONDITIONS = (RIGHT, SILENCE, SWAPPED, OFF_SCREEN, NOISE_ONLY)


def run(inputs: AnalysisInputs) -> AnalysisResult:
    """J, F and the false sounding rate under five sounds, without those that the data do not allow."""
    loaded = inputs.subject.loaded
    sounds, left_out = five_sounds(
        inputs.clips,
        silence=Preprocessor(loaded.config.preprocess).silence(),
        noise=BrownianNoise(seed=inputs.seed),
    )
    gallery = Gallery(inputs)
    rows: list[Row] = []
    for index, item in inputs.walk("listening test"):
        heard = {name: sound.replace_sound(index, item["log_mel"]) for name, sound in sounds.items()}
        scores = score_clip(inputs.model, item, heard, device=inputs.device)
        valid, masks = annotated(item), sounding_masks(item)
        for name, score in scores.items():
            wrong = nothing_visible_sounds(name, sounds[name], index, masks) & valid
            marked = marked_fraction(score.probability)[wrong]
            row = {"clip": item["name"], "condition": name, "miou": score.miou, "fscore": score.fscore}
            rows.append(row | {"false_sounding_sum": float(marked.sum()), "quiet_frames": int(wrong.sum())})
        if (second := gallery.turn(masks)) is not None:
            gallery.shown.append(_panels(inputs, item, scores, second))
    found = {name: _summary(rows, name) for name in sounds}
    return AnalysisResult(
        name="listening",
        numbers=inputs.head | {"conditions": found, "left_out": left_out},
        rows=[_per_clip(row) for row in rows],
        pictures=gallery.drawn("clips", picture_rows) | {"scores": listening_bars(found)},
        metrics=flat_metrics(found),
        table=_table(inputs, found, left_out),
    )


def _summary(rows: list[Row], name: str) -> dict[str, float]:
    """Means over clips; the false sounding rate over the frames in which nothing visible makes a sound."""
    own = [row for row in rows if row["condition"] == name]
    frames = sum(row["quiet_frames"] for row in own)
    wrong = sum(row["false_sounding_sum"] for row in own)
    return means(own, ("miou", "fscore")) | {
        "false_sounding_rate": wrong / frames if frames else float("nan"),
        "quiet_frames": frames,
    }


def _per_clip(row: Row) -> Row:
    row = dict(row)
    wrong = row.pop("false_sounding_sum")
    return row | {"false_sounding_rate": wrong / row["quiet_frames"] if row["quiet_frames"] else float("nan")}


def _panels(inputs: AnalysisInputs, item: dict[str, Any], scores: dict[str, Any], second: int) -> list[Panel]:
    scene = Panel.scene(item, second, inputs.subject.loaded.preprocessor.config)
    return [
        scene,
        *(scene.prediction(score.probability[second] > 0.5, name) for name, score in scores.items()),
    ]


def _table(inputs: AnalysisInputs, found: dict[str, Any], left_out: dict[str, str]) -> str:
    rows = [
        [name, v["miou"], v["fscore"], v["false_sounding_rate"], v["quiet_frames"]]
        for name, v in found.items()
    ]
    return "\n".join(
        [
            inputs.title,
            text_table(["", "J", "F", "false sounding rate", "of frames"], rows),
            "J and F compare with the ground truth of the clip's own sound; the false sounding rate is the fraction of "
            "pixels marked in frames where nothing visible makes a sound",
            *(f"left out: {name} ({reason})" for name, reason in left_out.items()),
        ]
    )
