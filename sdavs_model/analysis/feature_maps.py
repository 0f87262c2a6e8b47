"""Feature maps and Grad-CAM at the three points of SNRP: before, after CFS, after SFS (paper figure 5).

Grad-CAM weighs each channel by its gradient, so a factor on a whole channel cancels: it is the same before and after
a channel selector, whatever that does. The feature maps show what CFS changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdavs_model.analysis.taps import Call, record, response, snrp_modules, sounding_logits

POINTS = ("before", "after CFS", "after SFS")


@dataclass(frozen=True)
class LevelMaps:
    """One level's maps by point of SNRP."""

    features: dict[str, Tensor]
    """How strongly each position responds: [B, T, h, w], the length of its feature vector."""
    grad_cam: dict[str, Tensor]
    """What speaks for the answer: [B, T, h, w], 0 and above."""


@dataclass(frozen=True)
class SNRPMaps:
    """The maps of all levels ("1" is the largest) and the answer they belong to."""

    levels: dict[str, LevelMaps]
    logits: Tensor
    """Of "sounds at all": [B, T, H, W]."""


def snrp_maps(model: nn.Module, frames: Tensor, log_mel: Tensor) -> SNRPMaps:
    """Run a clip once forward and once back.

    Grad-CAM (Selvaraju et al. 2017) is ReLU(sum_c a_c A_c), a_c the mean gradient of channel c of the
    activation A. What is derived is the mean logit of the pixels that the model marks, as for segmentation in
    Vinogradova et al. 2020; a frame without any such pixel takes all of its pixels (our choice).

    Args:
        model: an `SDAVS` in eval mode.
        frames: [B, T, 3, H, W]. log_mel: [B, T, 1, 96, 64].

    Raises:
        ValueError: the model has no SNRP.
    """
    modules = snrp_modules(model)
    with torch.enable_grad(), record(modules) as calls:
        logits = sounding_logits(model(frames, log_mel))
        activations = [a for call in calls.values() for a in _points(call).values()]
        # Without CFS two points are one tensor, and without SFS two others; torch derives each alike.
        gradients = torch.autograd.grad(_answer(logits).sum(), activations)
    pairs = iter(zip(activations, gradients, strict=True))
    levels = {}
    for name in modules:
        found = {point: next(pairs) for point in POINTS}
        levels[name] = LevelMaps(
            features={point: response(a.detach()) for point, (a, _) in found.items()},
            grad_cam={point: grad_cam(a.detach(), g) for point, (a, g) in found.items()},
        )
    return SNRPMaps(levels, logits.detach())


def grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """ReLU(sum_c mean(gradient_c) * activation_c). activation, gradient: [..., C, h, w] -> [..., h, w]."""
    weights = gradient.float().mean((-2, -1), keepdim=True)
    return (weights * activation.float()).sum(-3).relu()


def focus(heat: Tensor, mask: Tensor) -> Tensor:
    """How many times stronger a map is on the sounding object than on the whole frame; 1 is indifferent.

    The measure is the energy-based pointing game (Wang et al. 2020) divided by the object's share of the
    frame, so that large objects earn nothing by their size.

    Args:
        heat: [N, h, w], 0 and above; resized to the mask.
        mask: [N, H, W] of {0, 1}.

    Returns:
        [N]; NaN where the mask or the map is empty.
    """
    heat = _fit(heat, mask)
    inside = (heat * mask).sum((-2, -1)) / mask.sum((-2, -1))
    return inside / heat.mean((-2, -1))


def points_at(heat: Tensor, mask: Tensor) -> Tensor:
    """The pointing game (Zhang et al. 2018): 1 where the map's maximum lies on the object, else 0; [N].

    Arguments and NaN as in `focus`.
    """
    heat = _fit(heat, mask)
    at_peak = mask.flatten(1).gather(1, heat.flatten(1).argmax(1, keepdim=True)).squeeze(1)
    empty = (mask.sum((-2, -1)) == 0) | (heat.sum((-2, -1)) == 0)
    return at_peak.masked_fill(empty, float("nan"))


def measures(maps: Mapping[str, Tensor], mask: Tensor) -> dict[str, dict[str, float]]:
    """{map: {"focus", "points_at"}} of one clip, means over the frames that have a value.

    Args:
        maps: [T, h, w] by name.
        mask: [T, H, W].
    """
    mask = mask.float()
    return {
        name: {
            "focus": float(focus(heat, mask).nanmean()),
            "points_at": float(points_at(heat, mask).nanmean()),
        }
        for name, heat in maps.items()
    }


def _points(call: Call) -> dict[str, Tensor]:
    values = (call.args[0], call.output.channel_selected, call.output.video)
    return dict(zip(POINTS, values, strict=True))


def _answer(logits: Tensor) -> Tensor:
    """[B, T, H, W] -> [B, T]: the mean logit of the marked pixels, or of all where none is marked."""
    marked = (logits > 0).float()
    marked = torch.where(marked.sum((-2, -1), keepdim=True) > 0, marked, torch.ones_like(marked))
    return (logits * marked).sum((-2, -1)) / marked.sum((-2, -1))


def _fit(heat: Tensor, mask: Tensor) -> Tensor:
    return F.interpolate(heat[:, None].float(), size=mask.shape[-2:], mode="bilinear", align_corners=False)[
        :, 0
    ]
