"""Robustness to noise with and without SNRP (paper Table IX), and the curve over signal-to-noise ratios."""

from pathlib import Path
from typing import Any

from sdavs_model.analysis.clip_scores import score_clip
from sdavs_model.analysis.noise_mixing import (
    TRAIN_RECORDING,
    BrownianNoise,
    Noise,
    NoisySound,
    RecordedNoise,
    snr_of_factor,
)
from sdavs_model.analysis.sound_conditions import ORIGINAL, PAPER_FACTOR, factor_condition, snr_condition
from sdavs_model.architectures.sdavs.config import SDAVSConfig
from sdavs_model.metrics import fscore_in_words
from sdavs_platform.analysis.draw_curves import noise_curve
from sdavs_platform.analysis.inputs import AnalysisInputs
from sdavs_platform.analysis.result import AnalysisResult, Row, flat_metrics, mean, means
from sdavs_platform.tables import text_table

SNRS_DB = (10, 0, -10)
WITH, WITHOUT = "with SNRP", "without SNRP"


def run(
    inputs: AnalysisInputs, *, without_snrp: AnalysisInputs | None, train_noise: str | None
) -> AnalysisResult:
    """Score each model with the original sound, with noise at the paper's factor, and at three ratios.

    Args:
        inputs: the model and the clips.
        without_snrp: the same clips for a model without SNRP; None to analyse one model only.
        train_noise: a recording to use instead of the bundled one.

    Raises:
        ValueError: the second model has SNRP; a sound file cannot be read.
    """
    all_inputs = _labelled(inputs, without_snrp)
    noises: dict[str, Noise] = {
        "brownian": BrownianNoise(seed=inputs.seed),
        "moving train": RecordedNoise(train_noise or TRAIN_RECORDING, seed=inputs.seed),
    }
    rows = [row for label, one in all_inputs.items() for row in _score(one, label, noises)]
    conditions = dict.fromkeys(row["condition"] for row in rows)
    scores = {
        label: {name: means(rows, ("miou", "fscore"), model=label, condition=name) for name in conditions}
        for label in all_inputs
    }
    factor_snr = {name: _mean_snr(inputs, noise) for name, noise in noises.items()}
    alone = f"only the model {next(iter(all_inputs))} was analysed (--without-snrp adds the other)"
    notes = [] if without_snrp else [alone]
    numbers = inputs.head | {
        "without_snrp": without_snrp.subject.address if without_snrp else None,
        "train_noise": Path(train_noise or TRAIN_RECORDING).name,
        "factor": PAPER_FACTOR,
        "mean_snr_db_of_factor": factor_snr,
        "scores": scores,
        "notes": notes,
    }
    return AnalysisResult(
        name="noise",
        numbers=numbers,
        rows=rows,
        pictures={"noise": noise_curve(scores, list(noises), SNRS_DB, factor_snr)},
        metrics=flat_metrics(scores),
        table=_table(inputs, scores, factor_snr, notes),
    )


def _labelled(inputs: AnalysisInputs, without_snrp: AnalysisInputs | None) -> dict[str, AnalysisInputs]:
    config = inputs.subject.loaded.config
    if not isinstance(config, SDAVSConfig):
        if without_snrp is not None:
            raise ValueError(f"--without-snrp: {inputs.subject.address} is {config.architecture}, not sdavs")
        return {config.architecture: inputs}
    own = WITH if _has_snrp(inputs) else WITHOUT
    if without_snrp is None:
        return {own: inputs}
    if _has_snrp(without_snrp):
        raise ValueError(f"--without-snrp: {without_snrp.subject.address} has SNRP (ablation.snrp)")
    if own == WITHOUT:
        raise ValueError(f"--without-snrp: {inputs.subject.address} has no SNRP either")
    return {WITH: inputs, WITHOUT: without_snrp}


def _has_snrp(inputs: AnalysisInputs) -> bool:
    config = inputs.subject.loaded.config
    return isinstance(config, SDAVSConfig) and config.ablation.snrp != "none"


def _score(inputs: AnalysisInputs, label: str, noises: dict[str, Noise]) -> list[Row]:
    sounds = {}
    for name, noise in noises.items():
        sounds[factor_condition(name)] = NoisySound(inputs.clips, noise=noise, factor=PAPER_FACTOR)
        for snr in SNRS_DB:
            sounds[snr_condition(name, snr)] = NoisySound(inputs.clips, noise=noise, snr_db=snr)
    rows = []
    for index, item in inputs.walk(f"noise, {label}"):
        heard = {ORIGINAL: item["log_mel"]}
        heard |= {name: sound.replace_sound(index, item["log_mel"]) for name, sound in sounds.items()}
        for condition, score in score_clip(inputs.model, item, heard, device=inputs.device).items():
            row = {"clip": item["name"], "model": label, "condition": condition}
            rows.append(row | {"miou": score.miou, "fscore": score.fscore})
    return rows


def _mean_snr(inputs: AnalysisInputs, noise: Noise) -> float:
    """The mean signal-to-noise ratio in dB of the paper's factor on these clips, without silent ones."""
    ratios = []
    for index in inputs.indices:
        waveform = inputs.clips.waveform(index)
        if waveform.any():
            ratios.append(snr_of_factor(waveform, noise(len(waveform), index), PAPER_FACTOR))
    return mean(ratios)


def _table(
    inputs: AnalysisInputs, scores: dict[str, Any], factor_snr: dict[str, float], notes: list[str]
) -> str:
    conditions = list(next(iter(scores.values())))
    header = ["", *(f"{key} {label}" for label in scores for key in ("J", "F"))]
    rows = [
        [condition, *(scores[label][condition][key] for label in scores for key in ("miou", "fscore"))]
        for condition in conditions
    ]
    meaning = ", ".join(f"{name} {snr:.1f} dB" for name, snr in factor_snr.items())
    return "\n".join(
        [
            inputs.title,
            text_table(header, rows),
            fscore_in_words(),
            f"factor {PAPER_FACTOR} is on average {meaning} of signal to noise",
            *notes,
        ]
    )
