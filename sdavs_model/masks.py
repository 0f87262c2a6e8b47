"""The one way from a model's square logits to masks over the original picture, in evaluation and in serving."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PictureMasks:
    """What a model says about T pictures, in their own size."""

    classes: Tensor
    """[T, H, W] uint8: 0 is background; a binary model knows 1 alone."""
    confidence: Tensor
    """[T, H, W] float32: probability of the class that the pixel was given."""


@torch.inference_mode()
def masks_at_size(logits: Tensor, *, size: tuple[int, int], threshold: float = 0.5) -> PictureMasks:
    """Resize logits bilinearly (the inverse of `Preprocessor.frames`, which squashes and crops nothing), then decide.

    Our choice: resizing before the decision gives smooth outlines where resizing the mask would give stairs.

    Args:
        logits: [T, K, S, S]; K = 1 is binary, K > 1 semantic with background first.
        size: height and width of the pictures.
        threshold: binary only: probability above which a pixel belongs to the mask. A semantic model answers
            the most probable class.
    """
    resized = torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    if logits.shape[1] == 1:
        confidence = resized[:, 0].sigmoid()
        classes = confidence > threshold
    else:
        confidence, classes = resized.softmax(1).max(1)
    return PictureMasks(classes=classes.to(torch.uint8), confidence=confidence)
