"""J, F and false sounding rate of one clip under several sounds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdavs_model.analysis.hooks import sounding_logits
from sdavs_model.architectures.base import SegmentationModel
from sdavs_model.data.core.clip import IGNORED
from sdavs_model.metrics.object import best_fscore, mask_iou
from sdavs_model.training_step import predict_under_sounds


@dataclass(frozen=True)
class ClipScore:
    """A model's scores on one clip with one sound."""

    miou: float
    """J against the clip's own masks as AVSBench computes it; its mean over clips is M_J of `ObjectMetrics`."""
    fscore: float
    """F of the clip, at the best threshold of this clip."""
    probability: Tensor
    """Probability of "sounds at all": [T, H, W], on the CPU."""


@torch.inference_mode()
def score_clip(
    model: SegmentationModel,
    item: Mapping[str, Any],
    sounds: Mapping[str, Tensor],
    *,
    device: torch.device | str,
) -> dict[str, ClipScore]:
    """Score one clip once with each sound; see `predict_under_sounds`.

    Args:
        model: in eval mode, on `device`.
        item: of a data set; its own sound is not used.
        sounds: log_mel [T, 1, 96, 64] by name.

    Returns:
        {name: score}, in the order of `sounds`.
    """
    inputs = {key: item[key][None].to(device) for key in ("frames", "present") if key in item}
    heard = {name: log_mel[None].to(device) for name, log_mel in sounds.items()}
    return {
        name: score_probability(item, sounding_logits(logits)[0].float().cpu().sigmoid())
        for name, logits in predict_under_sounds(model, inputs, heard)
    }


def score_probability(item: Mapping[str, Any], probability: Tensor) -> ClipScore:
    """The score of any prediction of `item`, the probability of "sounds at all": [T, H, W], on the CPU."""
    valid, target = annotated(item), sounding_masks(item).float()
    scored = probability[valid], target[valid]
    return ClipScore(mask_iou(*scored), best_fscore(*scored), probability)


def sounding_masks(item: Mapping[str, Any]) -> Tensor:
    """The pixels of `item` that sound, of any class: [T, H, W] bool."""
    return (item["masks"] > 0) & (item["masks"] != IGNORED)


def annotated(item: Mapping[str, Any]) -> Tensor:
    """The frames of `item` that have a mask, [T] bool; all of them if the data set annotates every frame."""
    return item.get("valid", torch.ones(len(item["masks"]), dtype=torch.bool))
