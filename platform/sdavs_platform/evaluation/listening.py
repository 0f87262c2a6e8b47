"""Whether a model listens, on one split of a data set with binary masks: more sounds, the deaf oracle, intervals.

The figures' definitions are in `sdavs_model.metrics.listening`, the bootstrap's in `sdavs_model.metrics.bootstrap`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from sdavs_model.analysis.listening import listening_sounds
from sdavs_model.analysis.noise_mixing import WhiteNoise
from sdavs_model.analysis.sound_conditions import OFF_SCREEN, RIGHT, SILENCE, SWAPPED, WHITE_NOISE
from sdavs_model.audio_control import ReplacedSound
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.data.training_clips import TrainingClips
from sdavs_model.metrics import Mode
from sdavs_model.metrics.bootstrap import asset_interval
from sdavs_model.metrics.listening import SoundMetrics, combined_scores, deaf_oracle_logits
from sdavs_platform.tables import text_table

ROWS = {
    RIGHT: "right audio",
    SILENCE: "muted audio",
    SWAPPED: "swapped audio",
    OFF_SCREEN: "off-screen audio",
    WHITE_NOISE: "white noise",
}
"""The row of a report for each sound."""
ORACLE = "deaf oracle"
"""The row of the model that marks every visible object."""
BLIND = "audio-blind copy"
"""The row of the model that was trained on silence."""
COMPARED = ("muted audio", "swapped audio", ORACLE, BLIND)
"""The rows that J with the right sound is compared with, clip by clip."""
SOUND_OF_ROBUST = {"right": RIGHT, "silence": SILENCE, "noise": WHITE_NOISE, "off-screen": OFF_SCREEN}
"""What AVSBench-Robust calls each sound."""
NOISE_SEED = 0
"""Evaluations of different models use the same noise."""

Intervals = dict[str, dict[str, float]]


def sounds_of(clips: TrainingClips) -> tuple[dict[str, ReplacedSound], dict[str, str]]:
    """The split with each of the sounds that it allows, by row, and the reason for each row that is left out."""
    sounds, left_out = listening_sounds(
        clips,
        silence=Preprocessor(clips.preprocessor.config).silence(),
        noises={WHITE_NOISE: WhiteNoise(seed=NOISE_SEED)},
    )
    reasons = {ROWS[name]: reason for name, reason in left_out.items()}
    return {ROWS[name]: sound for name, sound in sounds.items()}, reasons


def score_deaf_oracle(
    clips: TrainingClips, *, mode: Mode = "official", videos_per_batch: int = 1
) -> SoundMetrics:
    """The scores of a model that segments every visible object perfectly and ignores the sound.

    Raises:
        ValueError: the data set does not record which objects are visible.
    """
    metrics = SoundMetrics(mode=mode, videos_per_batch=videos_per_batch)
    for index in range(len(clips)):
        metrics.add_clip(oracle_logits(clips, index), clips[index])
    return metrics


def oracle_logits(clips: TrainingClips, index: int) -> Tensor:
    """The deaf oracle's prediction of one clip, [T, 1, S, S]. Raises ValueError as `score_deaf_oracle`."""
    return deaf_oracle_logits(clips.objects(index))[:, None]


def robust_scores(rows: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """AVSBench-Robust's combined figures of a report's rows; empty if one of its sounds was left out."""
    if any(ROWS[sound] not in rows for sound in SOUND_OF_ROBUST.values()):
        return {}
    return combined_scores({name: rows[ROWS[sound]] for name, sound in SOUND_OF_ROBUST.items()})


def intervals_of(
    clip_miou: Mapping[str, Mapping[str, float]], assets: Mapping[str, Sequence[str]]
) -> tuple[Intervals, str]:
    """95 % intervals of J for each row, and of the differences between the right sound and what it is compared with.

    Args:
        clip_miou: {row: {clip: J}}.
        assets: what each clip is composed of. Where a clip records nothing, clips count as independent of each other.

    Returns:
        {row or difference: {"mean", "low", "high"}}, and what was resampled. No intervals for fewer than two assets.
    """
    names = list(clip_miou[ROWS[RIGHT]])
    own = [list(assets[name]) for name in names]
    over = "photographs and recordings that the clips are composed of"
    if not all(own):
        own, over = (
            [[name] for name in names],
            "clips; the data set does not record what they are composed of",
        )
    count = len(set().union(*own))
    if count < 2:
        return {}, over
    right = clip_miou[ROWS[RIGHT]]
    values = {row: [of_row[name] for name in names] for row, of_row in clip_miou.items()}
    for row in COMPARED:
        if row in clip_miou:
            values[f"right audio - {row}"] = [right[name] - clip_miou[row][name] for name in names]
    return {name: asdict(asset_interval(scores, own)) for name, scores in values.items()}, f"{count} {over}"


def listening_text(
    *, robust: Mapping[str, float], intervals: Mapping[str, Mapping[str, float]], over: str
) -> list[str]:
    """The lines below a table of scores."""
    lines = []
    if robust:
        g_miou, g_fscore, g_fpr = robust["g_miou"], robust["g_fscore"], robust["g_fpr"]
        lines.append(
            f"AVSBench-Robust: G-mIoU {g_miou:.3f}, G-F {g_fscore:.3f}, G-FPR {g_fpr:.3f} "
            "(silence, white noise, off-screen sound)"
        )
    if intervals:
        rows = [[f"  {name}", v["mean"], v["low"], v["high"]] for name, v in intervals.items()]
        lines.append(text_table(["95 % interval of J", "mean", "low", "high"], rows))
        lines.append(f"  (bootstrap over {over})")
    return lines


def left_out_text(left_out: Mapping[str, str]) -> Iterable[str]:
    """A line for each row that a report lacks."""
    return (f"left out: {row} ({reason})" for row, reason in left_out.items())


def flat_intervals(intervals: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The limits as MLflow metrics."""
    return {
        f"{name.replace(' - ', '_minus_').replace(' ', '_')}/{limit}": values[limit]
        for name, values in intervals.items()
        for limit in ("low", "high")
    }
