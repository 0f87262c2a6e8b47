"""FSLA, AVIS's frame-level sound localization accuracy: the share of frames that are right as a whole.

True and found tracks of a video are matched once, over all frames (Hungarian matching on HOTA's alignment score). A
frame is then right, at an IoU threshold, if nothing sounds and nothing was found, or if what sounds was found: the same
classes, as many masks, and every pair of matched tracks overlapping by more than the threshold. FSLA is the mean over
the thresholds 0.05, 0.10 ... 0.95, over the frames of all videos.

Official, with the evaluator's quirks:

* The classes found are those of all tracks of the video, also of those that are empty in this frame. (Read from how the
  evaluator indexes them; its loader of results is not public. So a frame without sound counts as right only in a video
  without any track.)
* With one sounding object its track is looked up with rows and columns exchanged: the found track whose *matched true
  track* should be i is taken to be the row at which column i stands.
* With several, matched pairs that are both silent in this frame must have the same class.

Corrected: only what is found in the frame counts, and tracks are looked up the right way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sdavs_model.data.benchmarks.avis import Run, Track
from sdavs_model.metrics.base import Mode
from sdavs_model.metrics.instances import overlaps

THRESHOLDS = np.arange(0.05, 0.99, 0.05)
GROUPS = ("none", "single", "multi")
"""How many objects sound in a frame."""


@dataclass
class FSLACounts:
    """Frames, and right frames at every threshold, by how many objects sound."""

    frames: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GROUPS, 0))
    right: dict[str, np.ndarray] = field(
        default_factory=lambda: {g: np.zeros(len(THRESHOLDS)) for g in GROUPS}
    )

    def scores(self) -> dict[str, float]:
        """{"fsla"} and, where there are such frames, {"fsla_none", "fsla_single", "fsla_multi"}."""
        total = sum(self.frames.values())
        scores = {"fsla": float(np.sum(list(self.right.values()), axis=0).mean() / total)}
        groups = [group for group in GROUPS if self.frames[group]]
        return scores | {f"fsla_{g}": float(self.right[g].mean() / self.frames[g]) for g in groups}


def count_frames(
    counts: FSLACounts, true: Sequence[Track], found: Sequence[Track], num_frames: int, mode: Mode
) -> None:
    """Adds the frames of one video to `counts`."""
    true = [track for track in true if any(mask is not None for mask in track.masks)]
    pairs = match_tracks(true, found, num_frames, mode)
    judge = _official if mode == "official" else _corrected
    for time in range(num_frames):
        num_sounding = sum(track.masks[time] is not None for track in true)
        group = GROUPS[min(num_sounding, 2)]
        counts.frames[group] += 1
        counts.right[group] += judge(true, found, pairs, time)


def match_tracks(
    true: Sequence[Track], found: Sequence[Track], num_frames: int, mode: Mode
) -> list[tuple[int, int]]:
    """[(true, found)] track numbers, matched over the whole video.

    In the official mode a found track counts in every frame, as its submission format has a mask for each.
    """
    from scipy.optimize import linear_sum_assignment

    if not true or not found:
        return []
    potential = np.zeros((len(true), len(found)))
    for time in range(num_frames):
        rows, true_runs = _visible(true, time)
        columns, found_runs = _visible(found, time)
        similarity = overlaps(true_runs, found_runs)
        total = similarity.sum(0)[None] + similarity.sum(1)[:, None] - similarity
        share = np.divide(similarity, total, out=np.zeros_like(similarity), where=total > np.finfo(float).eps)
        potential[np.ix_(rows, columns)] += share
    true_lengths = [sum(mask is not None for mask in track.masks) for track in true]
    found_lengths = [
        num_frames if mode == "official" else sum(mask is not None for mask in track.masks) for track in found
    ]
    lengths = np.add.outer(true_lengths, found_lengths) - potential
    matched = linear_sum_assignment(-potential / lengths)
    return list(zip(*(numbers.tolist() for numbers in matched), strict=True))


def _corrected(
    true: Sequence[Track], found: Sequence[Track], pairs: Sequence[tuple[int, int]], time: int
) -> np.ndarray:
    """[19] of 0 and 1: whether the frame is right at each threshold."""
    rows, columns = _visible(true, time)[0], _visible(found, time)[0]
    if len(rows) != len(columns):
        return _verdict(-1)
    partner = dict(pairs)
    worst = 1.0
    for row in rows:
        column = partner.get(row)
        if column not in columns or true[row].category != found[column].category:
            return _verdict(-1)
        worst = min(worst, _iou(true[row], found[column], time))
    return _verdict(worst)


def _official(
    true: Sequence[Track], found: Sequence[Track], pairs: Sequence[tuple[int, int]], time: int
) -> np.ndarray:
    """The same with the evaluator's quirks."""
    rows, columns = _visible(true, time)[0], _visible(found, time)[0]
    same_classes = {true[row].category for row in rows} == {track.category for track in found}
    if not same_classes or len(rows) != len(columns):
        return _verdict(-1)
    if len(rows) == 1:
        exchanged = [place for place, (_, column) in enumerate(pairs) if column == rows[0]]
        return _verdict(_iou(true[rows[0]], found[exchanged[0]], time) if exchanged else -1)
    worst = 1.0
    # Also for no sounding object: nothing is matched then, because no track was found in the whole video.
    for row, column in pairs if rows else ():
        silent = true[row].masks[time] is None and found[column].masks[time] is None
        if true[row].category != found[column].category:
            return _verdict(-1)
        worst = min(worst, 1.0 if silent else _iou(true[row], found[column], time))
    return _verdict(worst)


def _visible(tracks: Sequence[Track], time: int) -> tuple[list[int], list[Run]]:
    """Numbers and masks of the tracks that are there in one frame."""
    there = [(number, mask) for number, track in enumerate(tracks) if (mask := track.masks[time]) is not None]
    return [number for number, _ in there], [mask for _, mask in there]


def _iou(left: Track, right: Track, time: int) -> float:
    """IoU of two tracks in one frame; 0 if only one is there."""
    masks = left.masks[time], right.masks[time]
    return float(overlaps([masks[0]], [masks[1]])[0, 0]) if masks[0] and masks[1] else 0.0


def _verdict(iou: float) -> np.ndarray:
    return (iou > THRESHOLDS).astype(float)
