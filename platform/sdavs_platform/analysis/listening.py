"""The listening test: several sounds for each clip, and the deaf oracle. Not in the paper, see its limitation IV-H."""

from typing import Any

from sdavs_model.analysis.clip_scores import annotated, score_clip, score_probability, sounding_masks
from sdavs_model.analysis.listening import listening_sounds, nothing_visible_sounds
from sdavs_model.analysis.noise_mixing import BrownianNoise, WhiteNoise
from sdavs_model.analysis.sound_conditions import NOISE_ONLY, RIGHT, WHITE_NOISE
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.metrics import fscore_in_words
from sdavs_model.metrics.listening import marked_fraction
from sdavs_platform.analysis.draw_clips import Panel, picture_rows
from sdavs_platform.analysis.draw_curves import listening_bars
from sdavs_platform.analysis.inputs import AnalysisInputs, Gallery
from sdavs_platform.analysis.result import AnalysisResult, Row, flat_metrics, means
from sdavs_platform.evaluation.listening import (
    ORACLE,
    ROWS,
    flat_intervals,
    intervals_of,
    left_out_text,
    listening_text,
    oracle_logits,
    robust_scores,
)
from sdavs_platform.tables import text_table


def run(inputs: AnalysisInputs) -> AnalysisResult:
    """J, F, false positive and false sounding rate under each sound, without those that the data do not allow."""
    loaded = inputs.subject.loaded
    sounds, left_out = listening_sounds(
        inputs.clips,
        silence=Preprocessor(loaded.config.preprocess).silence(),
        noises={NOISE_ONLY: BrownianNoise(seed=inputs.seed), WHITE_NOISE: WhiteNoise(seed=inputs.seed)},
    )
    if reason := _no_oracle(inputs):
        left_out[ORACLE] = reason
    gallery = Gallery(inputs)
    rows: list[Row] = []
    for index, item in inputs.walk("listening test"):
        heard = {name: sound.replace_sound(index, item["log_mel"]) for name, sound in sounds.items()}
        scores = score_clip(inputs.model, item, heard, device=inputs.device)
        valid, masks = annotated(item), sounding_masks(item)
        oracle = {}
        if ORACLE not in left_out:
            oracle[ORACLE] = score_probability(item, oracle_logits(inputs.clips, index)[:, 0].sigmoid())
        for name, score in (scores | oracle).items():
            # Deaf, the oracle predicts the same under each sound; its row is that of the clip's own.
            sound = RIGHT if name == ORACLE else name
            wrong = nothing_visible_sounds(sound, sounds[sound], index, masks) & valid
            marked = marked_fraction(score.probability)
            row = {"clip": item["name"], "condition": name, "miou": score.miou, "fscore": score.fscore}
            rows.append(
                row
                | {
                    "marked_sum": float(marked[valid].sum()),
                    "frames": int(valid.sum()),
                    "false_sounding_sum": float(marked[wrong].sum()),
                    "quiet_frames": int(wrong.sum()),
                }
            )
        if (second := gallery.turn(masks)) is not None:
            gallery.shown.append(_panels(inputs, item, scores, second))
    found = {name: _summary(rows, name) for name in dict.fromkeys(row["condition"] for row in rows)}
    robust = robust_scores({ROWS.get(name, name): values for name, values in found.items()})
    intervals, over = _intervals(inputs, rows)
    return AnalysisResult(
        name="listening",
        numbers=inputs.head
        | {
            "conditions": found,
            "videos_per_batch": 1,
            "robust": robust,
            "intervals": intervals,
            "over": over,
            "left_out": left_out,
        },
        rows=[_per_clip(row) for row in rows],
        pictures=gallery.drawn("clips", picture_rows)
        | {"scores": listening_bars({name: values for name, values in found.items() if name != ORACLE})},
        metrics=flat_metrics(found | {"robust": robust})
        | flat_metrics({"interval": flat_intervals(intervals)}),
        table="\n".join(
            [
                _table(inputs, found),
                *listening_text(robust=robust, intervals=intervals, over=over),
                *left_out_text(left_out),
            ]
        ),
    )


def _no_oracle(inputs: AnalysisInputs) -> str:
    """Why the deaf oracle cannot be scored; "" if it can."""
    try:
        for index in inputs.indices:
            inputs.clips.objects(index)
    except ValueError as error:
        return str(error)
    return ""


def _intervals(inputs: AnalysisInputs, rows: list[Row]) -> tuple[dict[str, dict[str, float]], str]:
    clip_miou: dict[str, dict[str, float]] = {}
    for row in rows:
        condition: str = row["condition"]
        name = ROWS.get(condition, condition)
        clip_miou.setdefault(name, {})[row["clip"]] = row["miou"]
    source = inputs.clips.source
    assets = {files.name: own for files, own in zip(source.files, source.assets, strict=True)}
    return intervals_of(clip_miou, assets)


def _summary(rows: list[Row], name: str) -> dict[str, float]:
    """Means over clips; the false sounding rate over the frames in which nothing visible makes a sound."""
    own = [row for row in rows if row["condition"] == name]
    frames = sum(row["quiet_frames"] for row in own)
    wrong = sum(row["false_sounding_sum"] for row in own)
    return means(own, ("miou", "fscore")) | {
        "fpr": sum(row["marked_sum"] for row in own) / sum(row["frames"] for row in own),
        "false_sounding_rate": wrong / frames if frames else float("nan"),
        "quiet_frames": frames,
    }


def _per_clip(row: Row) -> Row:
    row = dict(row)
    wrong, marked, frames = (row.pop(key) for key in ("false_sounding_sum", "marked_sum", "frames"))
    row["fpr"] = marked / frames if frames else float("nan")
    return row | {"false_sounding_rate": wrong / row["quiet_frames"] if row["quiet_frames"] else float("nan")}


def _panels(inputs: AnalysisInputs, item: dict[str, Any], scores: dict[str, Any], second: int) -> list[Panel]:
    scene = Panel.scene(item, second, inputs.subject.loaded.preprocessor.config)
    return [
        scene,
        *(scene.prediction(score.probability[second] > 0.5, name) for name, score in scores.items()),
    ]


def _table(inputs: AnalysisInputs, found: dict[str, Any]) -> str:
    rows = [
        [name, v["miou"], v["fscore"], v["fpr"], v["false_sounding_rate"], v["quiet_frames"]]
        for name, v in found.items()
    ]
    return "\n".join(
        [
            inputs.title,
            text_table(["", "J", "F", "FPR", "false sounding rate", "of frames"], rows),
            f"J and F compare with the ground truth of the clip's own sound, {fscore_in_words()}; "
            "FPR is the fraction of pixels marked, the false sounding rate the same in frames where nothing visible "
            "makes a sound",
        ]
    )
