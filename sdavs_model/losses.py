"""The training loss, paper IV-A: cross entropy + IoU + Dice.

The paper's weights are lost. Our choice: all three weigh 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Added to numerator and denominator, in pixels: an empty mask then asks for an empty prediction.
SMOOTH = 1.0


def segmentation_loss(logits: Tensor, masks: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
    """Cross entropy, soft IoU and soft Dice, each averaged over frames, and their sum.

    Args:
        logits: [B, T, K, H, W]; K = 1 is binary, K > 1 semantic with background first.
        masks: [B, T, H, W], integers: {0, 1} when binary, {0 ... K - 1} when semantic.
        valid: [B, T] bool; frames without an annotation (S4 trains on the first alone) are left out.

    Returns:
        {"loss", "ce", "iou", "dice"}, scalars. With no valid frame all are 0 and carry a zero gradient.

    Raises:
        ValueError: a mask holds a value outside the classes.
    """
    K = logits.shape[2]
    logits, masks = logits.flatten(0, 1).float(), masks.flatten(0, 1).long()  # [N, K, H, W], [N, H, W]
    highest = max(K - 1, 1)
    if masks.numel() and (int(masks.min()) < 0 or int(masks.max()) > highest):
        raise ValueError(f"masks: values {int(masks.min())} ... {int(masks.max())}; allowed: 0 ... {highest}")
    if K == 1:
        target = masks[:, None].float()
        ce = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((1, 2, 3))
        probability = logits.sigmoid()
        present = torch.ones_like(target[:, :, 0, 0])
    else:
        ce = F.cross_entropy(logits, masks, reduction="none").mean((1, 2))
        probability = logits.softmax(1)
        target = F.one_hot(masks, K).movedim(-1, 1).float()
        # Our choice: overlap is asked of the classes in the frame; cross entropy already keeps the others out.
        present = (target.flatten(2).sum(-1) > 0).float()
    inter = (probability * target).sum((2, 3))  # [N, K]
    total = probability.sum((2, 3)) + target.sum((2, 3))
    iou = _mean_over(1 - (inter + SMOOTH) / (total - inter + SMOOTH), present)
    dice = _mean_over(1 - (2 * inter + SMOOTH) / (total + SMOOTH), present)
    weight = torch.ones_like(ce) if valid is None else valid.flatten().float()
    parts = {
        name: (value * weight).sum() / weight.sum().clamp_min(1)
        for name, value in {"ce": ce, "iou": iou, "dice": dice}.items()
    }
    return {"loss": parts["ce"] + parts["iou"] + parts["dice"], **parts}


def _mean_over(values: Tensor, present: Tensor) -> Tensor:
    return (values * present).sum(1) / present.sum(1).clamp_min(1)
