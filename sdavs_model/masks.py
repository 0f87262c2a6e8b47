"""From a model's square logits to masks in the size of the original frames, for evaluation and serving alike."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FrameMasks:
    """Predicted classes and confidences of T frames, in the frames' own size."""

    classes: Tensor
    """[T, H, W] uint8: 0 is background; a binary model has class 1 alone."""
    confidence: Tensor
    """[T, H, W] float32: probability of 1 (binary) or of the predicted class (semantic)."""


@torch.inference_mode()
def masks_at_size(logits: Tensor, *, size: tuple[int, int], threshold: float = 0.5) -> FrameMasks:
    """Resize logits bilinearly to the frames' size, then predict classes.

    This inverts `Preprocessor.frames`, which resizes without cropping. Our choice: resizing logits gives smooth
    outlines, where resizing the mask would give stairs.

    Args:
        logits: [T, K, S, S]; K = 1 is binary, K > 1 semantic with background first.
        size: height and width of the frames.
        threshold: probability above which a pixel belongs to a binary mask. A semantic model predicts the most
            probable class.
    """
    resized = torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    if logits.shape[1] == 1:
        confidence = resized[:, 0].sigmoid()
        classes = confidence > threshold
    else:
        confidence, classes = resized.softmax(1).max(1)
    return FrameMasks(classes=classes.to(torch.uint8), confidence=confidence)
