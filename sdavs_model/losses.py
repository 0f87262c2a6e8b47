"""The training loss, paper IV-A: cross entropy + IoU + Dice.

The weights are missing from the paper's available text. Our choice: all three are 1.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from sdavs_model.data.core.clip import IGNORED
from sdavs_model.data.core.preprocess import require_classes

# Pixels added to numerator and denominator: with an empty mask the loss is then least for an empty prediction.
SMOOTH = 1.0


def segmentation_loss(
    logits: Tensor,
    masks: Tensor,
    valid: Tensor | None = None,
    *,
    num_frames: Tensor | None = None,
    weights: Mapping[str, float] | None = None,
    checked: bool = False,
) -> dict[str, Tensor]:
    """Cross entropy, soft IoU and soft Dice, each averaged over frames, and their weighted sum.

    Args:
        logits: [B, T, K, H, W]; K = 1 is binary, K > 1 semantic with background first.
        masks: [B, T, H, W], integers: {0, 1} when binary, {0 ... K - 1} when semantic, where pixels of value
            255 are ignored (VPO).
        valid: [B, T] bool; frames without an annotation (S4 trains on the first alone) are left out.
        num_frames: scalar by which the sums over frames are divided; None for the number of valid frames. Workers
            that share a batch divide by the mean number of their valid frames, see `training_loss`.
        weights: of "ce", "iou" and "dice" in "loss"; None for 1 each. The parts themselves stay unweighted.
        checked: the masks' values were checked before, as those of `TrainingClips` are; on a GPU nothing here then
            waits for it.

    Returns:
        {"loss", "ce", "iou", "dice"}, scalars. With no valid frame all are 0 and carry a zero gradient.

    Raises:
        ValueError: a mask holds a value outside the classes.
    """
    K = logits.shape[2]
    if not checked:
        require_classes(masks, K)
    logits, masks = logits.flatten(0, 1), masks.flatten(0, 1).long()  # [N, K, H, W], [N, H, W]
    counted = masks != IGNORED if K > 1 else torch.ones_like(masks, dtype=torch.bool)
    inside = torch.where(counted, masks, 0)
    logits = logits.float()
    parts = _binary_parts(logits, inside) if K == 1 else _semantic_parts(logits, inside, counted)
    chosen = torch.ones_like(masks[:, 0, 0], dtype=torch.bool) if valid is None else valid.flatten()
    if num_frames is None:
        num_frames = chosen.sum().clamp_min(1)
    parts = {name: torch.where(chosen, each, 0).sum() / num_frames for name, each in parts.items()}
    weights = weights or dict.fromkeys(parts, 1.0)
    loss = sum((weights[name] * part for name, part in parts.items()), torch.zeros_like(parts["ce"]))
    return {"loss": loss, **parts}


def _binary_parts(logits: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Each part per frame, [N]. logits: [N, 1, H, W]; masks: [N, H, W] of 0 and 1."""
    target = masks[:, None].float()
    ce = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((1, 2, 3))
    probability = logits.sigmoid()
    inter = (probability * target).sum((2, 3))  # [N, 1]
    total = probability.sum((2, 3)) + target.sum((2, 3))
    return {"ce": ce} | _overlap_losses(inter, total, torch.ones_like(inter))


def _semantic_parts(logits: Tensor, masks: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """Each part per frame, [N]. logits: [N, K, H, W]; masks: [N, H, W] indices; counted: [N, H, W] bool."""
    weight = counted.float()
    ce = (F.cross_entropy(logits, masks, reduction="none") * weight).sum((1, 2)) / weight.sum(
        (1, 2)
    ).clamp_min(1)
    probability = logits.softmax(1)
    # No one-hot masks: 71 of them a frame would double the memory.
    own = probability.gather(1, masks[:, None])[:, 0] * weight  # [N, H, W], of the ground-truth class
    inter = torch.zeros_like(logits[:, :, 0, 0]).scatter_add(1, masks.flatten(1), own.flatten(1))  # [N, K]
    area = torch.zeros_like(inter).scatter_add(1, masks.flatten(1), weight.flatten(1))
    total = torch.einsum("nkhw,nhw->nk", probability, weight) + area
    # Our choice: IoU and Dice over the classes in the frame; cross entropy already penalises the others.
    return {"ce": ce} | _overlap_losses(inter, total, (area > 0).float())


def _overlap_losses(inter: Tensor, total: Tensor, present: Tensor) -> dict[str, Tensor]:
    """Soft IoU and Dice losses per frame, [N], over the present classes. All arguments: [N, K]."""
    iou = _mean_over(1 - (inter + SMOOTH) / (total - inter + SMOOTH), present)
    dice = _mean_over(1 - (2 * inter + SMOOTH) / (total + SMOOTH), present)
    return {"iou": iou, "dice": dice}


def _mean_over(values: Tensor, present: Tensor) -> Tensor:
    return (values * present).sum(1) / present.sum(1).clamp_min(1)
