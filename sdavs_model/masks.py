"""Masks from logits, in the size of the original frames; used by evaluation and by the endpoint."""

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_VALUES = 1 << 25
"""Resized logits that are in memory at once: as many classes of one frame as fit, at least one. 134 MB, which is all of
71 classes at 480 lines and four of them at 4K, where all would take 2.4 GB."""


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

    Frame by frame and few classes at a time, so that memory does not grow with their number.

    Args:
        logits: [T, K, S, S]; K = 1 is binary, K > 1 semantic with background first.
        size: height and width of the frames.
        threshold: probability above which a pixel belongs to a binary mask. A semantic model predicts the most
            probable class.
    """
    classes = torch.empty(len(logits), *size, dtype=torch.uint8, device=logits.device)
    confidence = torch.empty(len(logits), *size, dtype=torch.float32, device=logits.device)
    for time, frame in enumerate(logits):
        if len(frame) == 1:
            torch.sigmoid(_resized(frame, size)[0], out=confidence[time])
            torch.gt(confidence[time], threshold, out=classes[time])
        else:
            classes[time], confidence[time] = _most_probable(frame, size)
    return FrameMasks(classes=classes, confidence=confidence)


def _most_probable(frame: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """[K, S, S] logits -> [H, W] the most probable class, and its probability; a running maximum and softmax."""
    at_once = max(1, MAX_VALUES // (size[0] * size[1]))
    best, total, classes = _most_probable_of(frame[:at_once], size)
    for first in range(at_once, len(frame), at_once):
        top, part, which = _most_probable_of(frame[first : first + at_once], size)
        classes = torch.where(top > best, which + first, classes)
        higher = torch.maximum(best, top)
        total.mul_(best.sub_(higher).exp_()).add_(part.mul_(top.sub_(higher).exp_()))
        best = higher
    return classes, total.reciprocal_()


def _most_probable_of(part: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Of some classes: the highest logit [H, W], the sum of exp(logit - highest), and which class it is, uint8."""
    resized = _resized(part, size)
    top, which = resized.max(0)
    return top, resized.sub_(top).exp_().sum(0), which.to(torch.uint8)


def _resized(frame: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.nn.functional.interpolate(frame[None], size=size, mode="bilinear", align_corners=False)[0]
