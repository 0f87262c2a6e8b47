"""Measures the test scores and the cost of a trial, in Ray tasks with the resources of a training worker."""

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sdavs_model import benchmark, build_model, load_artifact
from sdavs_model.analysis.clip_scores import annotated, score_clip
from sdavs_model.analysis.listening import NoiseOnly, OffScreenSound
from sdavs_model.analysis.noise_mixing import (
    BrownianNoise,
    Noise,
    NoisySound,
    RecordedNoise,
    WhiteNoise,
)
from sdavs_model.analysis.sound_conditions import (
    OFF_SCREEN,
    PAPER_FACTOR,
    SILENCE,
    WHITE_NOISE,
    factor_condition,
)
from sdavs_model.audio_control import AudioControl, AudioControlled, ReplacedSound
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.data.training_clips import TrainingClips
from sdavs_model.metrics.listening import marked_fraction
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.storage.datasets import open_split
from sdavs_platform.training.export import export_checkpoint
from sdavs_platform.tuning.study import SWAPPED

logger = logging.getLogger(__name__)

LATENCY_REPEATS = 3
ASSET_DIGITS = 12

# The paper's two noises (IV-D); every model hears the same samples with a clip.
NOISES: dict[str, Callable[[], Noise]] = {
    factor_condition("brownian"): lambda: BrownianNoise(seed=0),
    factor_condition("moving train"): lambda: RecordedNoise(seed=0),
}

# Other conditions that replace the whole sound.
CONTROLS: dict[str, AudioControl] = {SWAPPED: "swapped", SILENCE: "muted"}


def on_a_worker(function: Any, config: RunConfig, **arguments: Any) -> Any:
    """Run `function(config=..., **arguments)` as a Ray task with the resources of one training worker.

    Raises:
        ValueError, RuntimeError: what the function raised.
    """
    cluster = config.cluster
    nowhere: Any = None
    task = ray.remote(
        num_cpus=cluster.cpus_per_worker,
        num_gpus=int(cluster.use_gpu),
        # A trial's driver runs in a placement group without CPUs, in which its tasks would wait forever.
        scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=nowhere),
        max_retries=1,
    )(function)
    try:
        return ray.get(task.remote(config=config, **arguments))
    except ray.exceptions.RayTaskError as error:
        raise RuntimeError(f"{function.__name__}: {error.cause}") from error


def measure_cost(*, config: RunConfig) -> dict[str, float]:
    """Time for one clip (median, in ms, on one worker), multiply-accumulates in G, parameters in M.

    Time is measured on a training worker and depends on the load there; the other two are exact.
    """
    torch.set_num_threads(config.cluster.cpus_per_worker)
    counted = benchmark.cost(config.model)
    model = build_model(config.model.without_weights()).to("cuda" if config.cluster.use_gpu else "cpu")
    timed = benchmark.speed(model, repeats=LATENCY_REPEATS)
    return {
        "latency_ms": 1000 * timed.clip_s,
        "gmacs": counted.macs / 1e9,
        "parameters_m": counted.parameters / 1e6,
    }


def score_clips(
    *, config: RunConfig, checkpoint: str, conditions: tuple[str, ...]
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """J, F and false positive rate of every clip of the test splits, under every condition of the sound.

    AVSBench's rule for each clip: the sounding pixels of any class. Its mean over clips is M_J of a binary data set;
    protocols that average over classes have no value for a single clip that could be paired.

    Args:
        checkpoint: URI of a sharded checkpoint of the config.
        conditions: ORIGINAL first, then names of NOISES, `SWAPPED`, `SILENCE`, `WHITE_NOISE`, `OFF_SCREEN`.

    Returns:
        Condition -> split -> {"miou", "fscore", "fpr"}: one value per clip, in the split's order. "fpr" is the fraction
        of pixels with a probability above 0.5; with the sound of something else all of them are false positives.
        Conditions lack splits that do not allow them: `SWAPPED` those whose clips have no other sound.
    """
    torch.set_num_threads(config.cluster.cpus_per_worker)
    device = "cuda" if config.cluster.use_gpu else "cpu"
    with tempfile.TemporaryDirectory(prefix="sdavs-trial-") as folder:
        export_checkpoint(ray.train.Checkpoint(checkpoint), Path(folder), config=config, lineage={})
        model = load_artifact(folder, device=device).model
    splits = {
        split: _split_scores(model, config, split, conditions=conditions, device=device)
        for split in config.data.test_splits
    }
    return {
        name: {split: found[name] for split, found in splits.items() if name in found} for name in conditions
    }


def clip_assets(*, config: RunConfig) -> dict[str, list[list[str]]]:
    """Test split -> the photographs and recordings of each clip, in the split's order; see `ClipSet.assets`.

    By the beginnings of their digests, which are different enough, because every trial records them.
    """
    return {
        split: [[digest[:ASSET_DIGITS] for digest in own] for own in open_split(config, split).source.assets]
        for split in config.data.test_splits
    }


def _split_scores(
    model: Any, config: RunConfig, split: str, *, conditions: tuple[str, ...], device: str
) -> dict[str, dict[str, list[float]]]:
    """Condition -> metric -> one value per clip."""
    clips = open_split(config, split)
    heard = AudioControlled(
        clips, control=config.data.audio, silence=Preprocessor(config.model.preprocess).silence()
    )
    others = {name: sound for name in conditions[1:] if (sound := _other_sound(name, config, clips))}
    scores: dict[str, dict[str, list[float]]] = {
        name: {"miou": [], "fscore": [], "fpr": []} for name in (conditions[0], *others)
    }
    for index in range(len(clips)):
        item = heard[index]
        sounds = {conditions[0]: item["log_mel"]}
        sounds |= {name: other.replace_sound(index, item["log_mel"]) for name, other in others.items()}
        for name, found in score_clip(model, item, sounds, device=device).items():
            scores[name]["miou"].append(found.miou)
            scores[name]["fscore"].append(found.fscore)
            scores[name]["fpr"].append(float(marked_fraction(found.probability[annotated(item)]).mean()))
    return scores


def _other_sound(condition: str, config: RunConfig, clips: TrainingClips) -> ReplacedSound | None:
    """The split under a condition; None where its clips, or an audio-blind training, do not allow it."""
    if condition in NOISES:
        return NoisySound(clips, noise=NOISES[condition](), factor=PAPER_FACTOR)
    if config.data.audio == "muted":
        return None
    if condition == WHITE_NOISE:
        return NoiseOnly(clips, noise=WhiteNoise(seed=0))
    silence = Preprocessor(config.model.preprocess).silence()
    try:
        if condition == OFF_SCREEN:
            return OffScreenSound(clips)
        return AudioControlled(clips, control=CONTROLS[condition], silence=silence)
    except ValueError as error:
        logger.info("%s: %s is not scored: %s", clips.source.root, condition, error)
        return None
