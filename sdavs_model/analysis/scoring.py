"""One clip under several sounds: J, F and the false sounding rate of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sdavs_model.analysis.taps import sounding_logits
from sdavs_model.metrics.object import best_fscore, mask_iou

IGNORED = 255
"""Mask value of pixels that no score counts."""


@dataclass(frozen=True)
class ClipScore:
    """What a model scored on one clip with one sound."""

    miou: float
    """J against the clip's own masks, AVSBench's rule; its mean over clips is M_J of `ObjectMetrics`."""
    fscore: float
    """F, likewise."""
    probability: Tensor
    """Of "sounds at all": [T, H, W], on the CPU."""


@torch.inference_mode()
def score_clip(
    model: nn.Module, item: Mapping[str, Any], sounds: Mapping[str, Tensor], *, device: torch.device | str
) -> dict[str, ClipScore]:
    """Score one clip once for each sound.

    Args:
        model: in eval mode, on `device`.
        item: of a data set; its own sound is not looked at.
        sounds: log_mel [T, 1, 96, 64] by name.

    Returns:
        {name: score}, in the order of `sounds`.
    """
    frames, valid, target = item["frames"][None].to(device), annotated(item), sounding_masks(item).float()
    scores = {}
    for name, log_mel in sounds.items():
        logits = sounding_logits(model(frames, log_mel[None].to(device)))
        probability = logits[0].float().cpu().sigmoid()
        scored = probability[valid], target[valid]
        scores[name] = ClipScore(mask_iou(*scored), best_fscore(*scored), probability)
    return scores


def sounding_masks(item: Mapping[str, Any]) -> Tensor:
    """[T, H, W] bool: the pixels of `item` that sound, of whatever class."""
    return (item["masks"] > 0) & (item["masks"] != IGNORED)


def annotated(item: Mapping[str, Any]) -> Tensor:
    """[T] bool: the frames of `item` that have a mask; all of them where the data set leaves none out."""
    return item.get("valid", torch.ones(len(item["masks"]), dtype=torch.bool))


def marked_share(probability: Tensor) -> Tensor:
    """The share of each frame's pixels that are marked: [T, H, W] -> [T].

    Where nothing visible sounds every one of them is wrong: the mean over such frames is the false sounding
    rate (our measure; on such frames J is 1 less this share).
    """
    return (probability > 0.5).float().mean((-2, -1))
