"""What a data set holds, in numbers: clips, categories, sizes, and how much of the pictures sounds."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdavs_model.data.core.clip import IGNORED
from sdavs_model.data.core.clip_set import ClipSet


@dataclass(frozen=True, kw_only=True)
class ClipNumbers:
    """One clip, counted."""

    num_frames: int
    num_masks: int
    num_sounding: int
    """Frames whose mask is not empty."""
    share: float
    """Sum over the masks of the share of pixels that sound."""
    size: str


def statistics(clips: ClipSet, *, num_workers: int = 1) -> dict[str, Any]:
    """The numbers of one split, ready for JSON; every picture and mask is read.

    Raises:
        ValueError: a file cannot be read; names it.
    """
    with ThreadPoolExecutor(num_workers) as workers:
        numbers = list(workers.map(lambda index: _count(clips, index), range(len(clips))))
    num_masks = sum(clip.num_masks for clip in numbers)
    heard = Counter(name for category in clips.categories for name in category.split("+") if name)
    return {
        "clips": len(numbers),
        "frames": sum(clip.num_frames for clip in numbers),
        "masks": num_masks,
        "masks_with_sound": sum(clip.num_sounding for clip in numbers),
        "mean_share_of_pixels": round(sum(clip.share for clip in numbers) / max(1, num_masks), 4),
        "sizes": dict(Counter(clip.size for clip in numbers).most_common()),
        "categories": dict(heard.most_common()),
    }


def _count(clips: ClipSet, index: int) -> ClipNumbers:
    clip = clips.pictures(index)
    assert clip.masks is not None
    assert clip.valid is not None
    sounding = ((clip.masks > 0) & (clip.masks != IGNORED)).mean(axis=(1, 2))[clip.valid]
    return ClipNumbers(
        num_frames=clip.num_frames,
        num_masks=int(clip.valid.sum()),
        num_sounding=int(np.count_nonzero(sounding)),
        share=float(sounding.sum()),
        size=f"{clip.frames.shape[2]}x{clip.frames.shape[1]}",
    )


def total_digest(digests: dict[str, str]) -> str:
    """One sha256 (hex) for several splits, in the order given; what a training logs as its data digest."""
    lines = "".join(f"{split} {digest}\n" for split, digest in digests.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def asset_digests(clips: ClipSet) -> set[str]:
    """sha256 of every photograph and recording that a composed split is made of.

    Raises:
        ValueError: a clip does not say what it is made of; names it.
    """
    digests: set[str] = set()
    for video in clips.videos:
        record = {} if video.sources is None else json.loads(video.sources.read_text())
        if "assets" not in record:
            raise ValueError(f"{video.name}: has no record of its assets; it is not of RealAV")
        digests.update(record["assets"])
    return digests
