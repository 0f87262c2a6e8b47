"""Statistics of a data set: clips, categories, sizes, and the fraction of pixels that sound."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdavs_model.data.core.clip import IGNORED
from sdavs_model.data.core.clip_set import ClipSet


@dataclass(frozen=True, kw_only=True)
class ClipCounts:
    """Counts of one clip."""

    num_frames: int
    num_masks: int
    num_sounding: int
    """Frames whose mask is not empty."""
    fraction: float
    """Sum over the masks of the fraction of pixels that sound."""
    size: str


def statistics(clips: ClipSet, *, num_workers: int = 1) -> dict[str, Any]:
    """The numbers of one split, ready for JSON; every picture and mask is read.

    Raises:
        ValueError: a file cannot be read; names it.
    """
    with ThreadPoolExecutor(num_workers) as workers:
        counts = list(workers.map(lambda index: _count(clips, index), range(len(clips))))
    num_masks = sum(clip.num_masks for clip in counts)
    heard = Counter(name for category in clips.categories for name in category.split("+") if name)
    return {
        "clips": len(counts),
        "frames": sum(clip.num_frames for clip in counts),
        "masks": num_masks,
        "masks_with_sound": sum(clip.num_sounding for clip in counts),
        "mean_share_of_pixels": round(sum(clip.fraction for clip in counts) / max(1, num_masks), 4),
        "sizes": dict(Counter(clip.size for clip in counts).most_common()),
        "categories": dict(heard.most_common()),
    }


def _count(clips: ClipSet, index: int) -> ClipCounts:
    clip = clips.pictures(index)
    assert clip.masks is not None
    assert clip.valid is not None
    sounding = ((clip.masks > 0) & (clip.masks != IGNORED)).mean(axis=(1, 2))[clip.valid]
    return ClipCounts(
        num_frames=clip.num_frames,
        num_masks=int(clip.valid.sum()),
        num_sounding=int(np.count_nonzero(sounding)),
        fraction=float(sounding.sum()),
        size=f"{clip.frames.shape[2]}x{clip.frames.shape[1]}",
    )
