"""From predicted classes to instance tracks: AVIS scores tracks, SDAVS predicts a class for each pixel.

The paper does not say how it converts; this is our choice. In each frame every connected region of a class is an
instance (regions smaller than `MIN_AREA` of the frame are dropped as noise). From frame to frame a region continues
the track of its class whose last region it overlaps most, each track at most once (Hungarian matching on IoU); a track
may be silent for up to `MAX_GAP` seconds. A region that overlaps no track starts a new one. A track's score is the mean
probability of its regions' class. Two touching instances of one class become one region, which lowers the score.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdavs_model.data.benchmarks.avis import Run, Track

MIN_AREA = 0.001
"""Smallest region, as a fraction of the frame."""
MAX_GAP = 5
"""Frames, and seconds, after which a track has ended."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """One connected region of one class in one frame."""

    category: int
    run: Run
    score: float
    """Mean probability of the class over the region's pixels."""


def find_regions(classes: np.ndarray, probability: np.ndarray) -> list[Region]:
    """The regions of one frame.

    Args:
        classes: [H, W] class indices, 0 is background.
        probability: [H, W] float, of each pixel's own class.
    """
    # Imported here: only AVIS needs them.
    from pycocotools import mask as coco_mask
    from scipy.ndimage import label

    regions = []
    for category in np.unique(classes[classes > 0]).tolist():
        numbered, count = label(classes == category, structure=np.ones((3, 3)))
        for number in range(1, count + 1):
            region = numbered == number
            if region.sum() >= MIN_AREA * region.size:
                run = coco_mask.encode(np.asfortranarray(region.astype(np.uint8)))
                regions.append(Region(category=category, run=run, score=float(probability[region].mean())))
    return regions


def link(frames: Sequence[Sequence[Region]]) -> list[Track]:
    """The tracks through the frames of one video."""
    from scipy.optimize import linear_sum_assignment

    tracks: list[dict[int, Region]] = []
    for time, regions in enumerate(frames):
        live = [track for track in tracks if time - max(track) <= MAX_GAP]
        overlap = np.array([[_overlap(track[max(track)], region) for region in regions] for track in live])
        continued = set()
        if overlap.size:
            for row, column in zip(*linear_sum_assignment(-overlap), strict=True):
                if overlap[row, column] > 0:
                    live[row][time] = regions[column]
                    continued.add(int(column))
        tracks += [{time: region} for number, region in enumerate(regions) if number not in continued]
    return [_as_track(track, len(frames)) for track in tracks]


def overlaps(left: Sequence[Run], right: Sequence[Run]) -> np.ndarray:
    """[len(left), len(right)] IoU of masks."""
    from pycocotools import mask as coco_mask

    if not left or not right:
        return np.zeros((len(left), len(right)))
    return np.asarray(coco_mask.iou(list(left), list(right), [0] * len(right)))


def empty_run(height: int, width: int) -> Run:
    """The run lengths of a mask without a pixel."""
    from pycocotools import mask as coco_mask

    return coco_mask.encode(np.zeros((height, width), np.uint8, order="F"))


def _overlap(left: Region, right: Region) -> float:
    return float(overlaps([left.run], [right.run])[0, 0]) if left.category == right.category else 0.0


def _as_track(regions: dict[int, Region], num_frames: int) -> Track:
    return Track(
        category=next(iter(regions.values())).category,
        masks=tuple(regions[time].run if time in regions else None for time in range(num_frames)),
        score=float(np.mean([region.score for region in regions.values()])),
    )
