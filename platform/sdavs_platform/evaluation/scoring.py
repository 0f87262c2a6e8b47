"""Scores a model on one split by the protocol of its data set, and the best constant mask as a baseline."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from sdavs_model.audio_control import AudioControl, AudioControlled, ReplacedSound
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.data.training_clips import TrainingClips, collate_clips
from sdavs_model.metrics import Metrics, Mode, ObjectMetrics, open_metrics
from sdavs_model.training_step import evaluate, move, predict_under_sounds
from sdavs_platform.evaluation.scorers import Scorers

Scores = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The constant mask with the highest J: a prediction that ignores its input."""

    kind: str
    """All background, all foreground, or the mean training mask above a threshold."""
    scores: Scores


def score(
    model: Any,
    clips: TrainingClips,
    *,
    audio: AudioControl = "right",
    mode: Mode = "official",
    videos_per_batch: int = 1,
    device: str | torch.device = "cpu",
    scorers: Scorers | None = None,
) -> Scores:
    """The protocol's figures for one split under one audio control; see `sdavs_model.metrics`.

    Args:
        scorers: workers of a cluster, among which the clips are divided; None for this process alone.

    Raises:
        ValueError: a file cannot be read; or, with "swapped", no other clip has other sounds.
    """
    heard = AudioControlled(clips, control=audio, silence=Preprocessor(model.config.preprocess).silence())
    metrics = open_metrics(clips.source, mode=mode, videos_per_batch=videos_per_batch)
    return score_sound(model, heard, metrics=metrics, device=device, scorers=scorers).compute()


def score_sound(
    model: Any,
    heard: ReplacedSound,
    *,
    metrics: Metrics,
    device: str | torch.device = "cpu",
    batch_size: int = 4,
    scorers: Scorers | None = None,
) -> Metrics:
    """`metrics`, which are empty, with the predictions for one split under one sound; other arguments as `score`."""
    if scorers is not None:
        return scorers.score(model, heard, metrics=metrics, device=device, batch_size=batch_size)
    batches = DataLoader(heard, batch_size=batch_size, collate_fn=collate_clips)
    return evaluate(model, batches, device=device, metrics=metrics)


@torch.inference_mode()
def score_sounds(
    model: Any,
    clips: TrainingClips,
    sounds: Mapping[str, ReplacedSound],
    *,
    metrics: Mapping[str, Metrics],
    device: str | torch.device = "cpu",
    batch_size: int = 4,
) -> None:
    """Add a model's predictions for one split under several sounds to `metrics`, by the name of the sound.

    The same as `score_sound` for each, but every clip's frames are read, and encoded, only once.

    Args:
        model: a `SegmentationModel`.
        sounds: `clips` with other sound.

    Raises:
        ValueError: a file cannot be read.
    """
    model.eval()
    for first in range(0, len(clips), batch_size):
        indices = range(first, min(first + batch_size, len(clips)))
        items = [clips[index] for index in indices]
        batch = move(collate_clips(items), device)
        heard = {
            name: torch.stack(
                [
                    sound.replace_sound(index, item["log_mel"])
                    for index, item in zip(indices, items, strict=True)
                ]
            ).to(device)
            for name, sound in sounds.items()
        }
        for name, logits in predict_under_sounds(model, batch, heard):
            for number, clip_logits in enumerate(logits.float()):
                metrics[name].add_clip(clip_logits, {key: values[number] for key, values in batch.items()})


def best_constant(
    train: TrainingClips,
    test: TrainingClips,
    *,
    mode: Mode = "official",
    videos_per_batch: int = 1,
    num_train: int = 200,
) -> Constant:
    """The constant mask with the highest J on `test`: a floor that any binary model must exceed.

    Candidates: all background, all foreground, and the mean mask of (up to `num_train`) training clips above
    each of nine thresholds. The choice is made on the test split itself, which favours the baseline.
    """
    indices = range(0, len(train), max(1, len(train) // num_train))
    mean = torch.stack([_target(train, i).mean(0) for i in indices]).mean(0)  # [H, W]
    levels = torch.linspace(0.1, 0.9, 9) * mean.max()
    candidates = {
        "all background": torch.zeros_like(mean),
        "all foreground": torch.ones_like(mean),
        **{f"mean training mask above {level:.2f}": (mean > level).float() for level in levels},
    }

    def scored(masks: Mapping[str, torch.Tensor], *, fscore: bool) -> dict[str, Scores]:
        metrics = {
            kind: ObjectMetrics(mode=mode, videos_per_batch=videos_per_batch, fscore=fscore) for kind in masks
        }
        for target in (_target(test, i) for i in range(len(test))):
            for kind, mask in masks.items():
                # Logits of +-10 mean a confident mask.
                metrics[kind].update((mask * 20 - 10).expand_as(target), target)
        return {kind: metric.compute() for kind, metric in metrics.items()}

    # F takes most of the time, and only that of the chosen one is asked for.
    miou = {kind: scores["miou"] for kind, scores in scored(candidates, fscore=False).items()}
    kind = max(miou, key=lambda each: miou[each])
    return Constant(kind=kind, scores=scored({kind: candidates[kind]}, fscore=True)[kind])


def _target(clips: TrainingClips, index: int) -> torch.Tensor:
    """Foreground of the annotated frames: [T, H, W] of 0.0 and 1.0. The clip's sound is not read."""
    clip = clips.source.pictures(index)
    assert clip.masks is not None
    masks = clips.preprocessor.masks(clip.masks)
    if clip.valid is not None:
        masks = masks[torch.tensor(clip.valid.copy())]
    return (masks > 0).float()
