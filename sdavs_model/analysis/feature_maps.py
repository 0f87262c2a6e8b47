"""Feature maps and Grad-CAM at the three points of SNRP: before, after CFS, after SFS (paper figure 5).

Grad-CAM weighs each channel by its gradient, so a factor on a whole channel cancels: the Grad-CAM map is the same
before and after the channel selector, whatever its weights are. Only the feature maps show what CFS changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdavs_model.analysis.hooks import Call, feature_norm, record_calls, snrp_modules, sounding_logits

POINTS = ("before", "after CFS", "after SFS")


@dataclass(frozen=True)
class LevelMaps:
    """One level's maps at the three points of SNRP, by name."""

    features: dict[str, Tensor]
    """Norm of the feature vector at each position: [B, T, h, w]."""
    grad_cam: dict[str, Tensor]
    """Grad-CAM of the predicted mask: [B, T, h, w], 0 and above."""


@dataclass(frozen=True)
class SNRPMaps:
    """The maps of all levels ("1" is the largest) and the logits of the same forward pass."""

    levels: dict[str, LevelMaps]
    logits: Tensor
    """Logits of "sounds at all": [B, T, H, W]."""


def snrp_maps(model: nn.Module, frames: Tensor, log_mel: Tensor) -> SNRPMaps:
    """Run a clip forward and backward once, and return its feature maps and Grad-CAM.

    Grad-CAM (Selvaraju et al. 2017) is ReLU(sum_c a_c A_c), a_c the mean gradient over channel c of the
    activation A. The gradient is that of the mean logit of the predicted pixels, as for segmentation in
    Vinogradova et al. 2020; in a frame without a predicted pixel it is that of all pixels (our choice).

    Args:
        model: an `SDAVS` in eval mode.
        frames: [B, T, 3, H, W].
        log_mel: [B, T, 1, 96, 64].

    Raises:
        ValueError: the model has no SNRP.
    """
    modules = snrp_modules(model)
    with torch.enable_grad(), record_calls(modules) as calls:
        logits = sounding_logits(model(frames, log_mel))
        activations = [a for call in calls.values() for a in _points(call).values()]
        # Without CFS or SFS two of the points are the same tensor; autograd accepts that.
        gradients = torch.autograd.grad(_mean_predicted_logit(logits).sum(), activations)
    pairs = iter(zip(activations, gradients, strict=True))
    levels = {}
    for name in modules:
        found = {point: next(pairs) for point in POINTS}
        levels[name] = LevelMaps(
            features={point: feature_norm(a.detach()) for point, (a, _) in found.items()},
            grad_cam={point: grad_cam(a.detach(), g) for point, (a, g) in found.items()},
        )
    return SNRPMaps(levels, logits.detach())


def grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """ReLU(sum_c mean(gradient_c) * activation_c). activation, gradient: [..., C, h, w] -> [..., h, w]."""
    weights = gradient.float().mean((-2, -1), keepdim=True)
    return (weights * activation.float()).sum(-3).relu()


def focus(heat: Tensor, mask: Tensor) -> Tensor:
    """Mean of a map over the sounding object divided by its mean over the frame; 1 is chance.

    This is the energy-based pointing game (Wang et al. 2020) divided by the object's fraction of the frame, so that
    large objects do not score higher for their size.

    Args:
        heat: [N, h, w], 0 and above; resized to the mask's size.
        mask: [N, H, W] of {0, 1}.

    Returns:
        [N]; NaN where the mask or the map is empty.
    """
    heat = _resize_to(heat, mask)
    inside = (heat * mask).sum((-2, -1)) / mask.sum((-2, -1))
    return inside / heat.mean((-2, -1))


def points_at(heat: Tensor, mask: Tensor) -> Tensor:
    """The pointing game (Zhang et al. 2018): 1 where the maximum of the map lies on the object, else 0.

    Arguments, result and NaN as in `focus`.
    """
    heat = _resize_to(heat, mask)
    at_peak = mask.flatten(1).gather(1, heat.flatten(1).argmax(1, keepdim=True)).squeeze(1)
    empty = (mask.sum((-2, -1)) == 0) | (heat.sum((-2, -1)) == 0)
    return at_peak.masked_fill(empty, float("nan"))


def measures(maps: Mapping[str, Tensor], mask: Tensor) -> dict[str, dict[str, float]]:
    """Means of `focus` and `points_at` over the frames of one clip that have a value.

    Returns {name: {"focus": float, "points_at": float}}.

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


def _mean_predicted_logit(logits: Tensor) -> Tensor:
    """Mean logit of the predicted pixels, or of all pixels where none is predicted: [B, T, H, W] -> [B, T]."""
    predicted = (logits > 0).float()
    predicted = torch.where(predicted.sum((-2, -1), keepdim=True) > 0, predicted, torch.ones_like(predicted))
    return (logits * predicted).sum((-2, -1)) / predicted.sum((-2, -1))


def _resize_to(heat: Tensor, mask: Tensor) -> Tensor:
    return F.interpolate(heat[:, None].float(), size=mask.shape[-2:], mode="bilinear", align_corners=False)[
        :, 0
    ]
