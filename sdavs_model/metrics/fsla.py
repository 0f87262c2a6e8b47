"""FSLA, AVIS's frame-level sound localization accuracy: the fraction of frames that are correct as a whole.

Ground-truth and predicted tracks of a video are matched once, over all frames (Hungarian matching on HOTA's alignment
score). At an IoU threshold a frame is then correct if nothing sounds and nothing is predicted, or if the predictions
fit what sounds: the same classes, as many masks, and an IoU above the threshold for every pair of matched tracks. FSLA
is the mean over the thresholds 0.05, 0.10 ... 0.95, over the frames of all videos.

Official, with the evaluator's quirks:

* The predicted classes are those of all tracks of the video, also of tracks that are empty in this frame (the public
  reader of submissions keeps an empty mask as a mask). So a frame without sound counts as correct only in a video
  without any predicted track.
* With one sounding object its predicted track is looked up with rows and columns exchanged: for ground-truth track i
  the evaluator takes the matched pair whose *predicted* track is number i, and uses the pair's position as the number
  of the predicted track.
* With several sounding objects, matched tracks that are both silent in this frame must still have the same class.

Corrected: only masks predicted in the frame count, and tracks are looked up by their match.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sdavs_model.data.benchmarks.avis import Run, Track
from sdavs_model.metrics.base import Mode
from sdavs_model.metrics.instances import overlaps

THRESHOLDS = np.arange(0.05, 0.99, 0.05)
GROUPS = ("none", "single", "multi")
"""Groups of frames by the number of sounding objects: 0, 1, more."""


@dataclass
class FSLACounts:
    """Number of frames, and of correct frames at each threshold, by group."""

    frames: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GROUPS, 0))
    correct: dict[str, np.ndarray] = field(
        default_factory=lambda: {g: np.zeros(len(THRESHOLDS)) for g in GROUPS}
    )

    def scores(self) -> dict[str, float]:
        """{"fsla"} and, for groups that have frames, {"fsla_none", "fsla_single", "fsla_multi"}."""
        total = sum(self.frames.values())
        scores = {"fsla": float(np.sum(list(self.correct.values()), axis=0).mean() / total)}
        groups = [group for group in GROUPS if self.frames[group]]
        return scores | {f"fsla_{g}": float(self.correct[g].mean() / self.frames[g]) for g in groups}


def count_frames(
    counts: FSLACounts,
    ground_truth: Sequence[Track],
    predicted: Sequence[Track],
    num_frames: int,
    mode: Mode,
) -> None:
    """Add the frames of one video to `counts`."""
    ground_truth = [track for track in ground_truth if any(mask is not None for mask in track.masks)]
    pairs = match_tracks(ground_truth, predicted, num_frames, mode)
    judge = _official if mode == "official" else _corrected
    for time in range(num_frames):
        num_sounding = sum(track.masks[time] is not None for track in ground_truth)
        group = GROUPS[min(num_sounding, 2)]
        counts.frames[group] += 1
        counts.correct[group] += judge(ground_truth, predicted, pairs, time)


def match_tracks(
    ground_truth: Sequence[Track], predicted: Sequence[Track], num_frames: int, mode: Mode
) -> list[tuple[int, int]]:
    """Pairs (number of the ground-truth track, number of the predicted track), matched over the whole video.

    In the official mode a predicted track has a mask, if an empty one, in every frame.
    """
    from scipy.optimize import linear_sum_assignment

    if not ground_truth or not predicted:
        return []
    potential = np.zeros((len(ground_truth), len(predicted)))
    for time in range(num_frames):
        rows, true_runs = _present(ground_truth, time)
        columns, predicted_runs = _present(predicted, time)
        similarity = overlaps(true_runs, predicted_runs)
        total = similarity.sum(0)[None] + similarity.sum(1)[:, None] - similarity
        potential[np.ix_(rows, columns)] += np.divide(
            similarity, total, out=np.zeros_like(similarity), where=total > np.finfo(float).eps
        )
    true_lengths = [_length(track) for track in ground_truth]
    predicted_lengths = [num_frames if mode == "official" else _length(track) for track in predicted]
    lengths = np.add.outer(true_lengths, predicted_lengths) - potential
    matched = linear_sum_assignment(-potential / lengths)
    return list(zip(*(numbers.tolist() for numbers in matched), strict=True))


def _corrected(
    ground_truth: Sequence[Track], predicted: Sequence[Track], pairs: Sequence[tuple[int, int]], time: int
) -> np.ndarray:
    """[19] of 0 and 1: whether the frame is correct at each threshold."""
    rows, columns = _present(ground_truth, time)[0], _present(predicted, time)[0]
    if len(rows) != len(columns):
        return _above_thresholds(-1)
    partner = dict(pairs)
    worst = 1.0
    for row in rows:
        column = partner.get(row)
        if column not in columns or ground_truth[row].category != predicted[column].category:
            return _above_thresholds(-1)
        worst = min(worst, _iou(ground_truth[row], predicted[column], time))
    return _above_thresholds(worst)


def _official(
    ground_truth: Sequence[Track], predicted: Sequence[Track], pairs: Sequence[tuple[int, int]], time: int
) -> np.ndarray:
    """The same with the evaluator's quirks."""
    rows, columns = _present(ground_truth, time)[0], _present(predicted, time)[0]
    same_classes = {ground_truth[row].category for row in rows} == {track.category for track in predicted}
    if not same_classes or len(rows) != len(columns):
        return _above_thresholds(-1)
    if len(rows) == 1:
        exchanged = [position for position, (_, column) in enumerate(pairs) if column == rows[0]]
        return _above_thresholds(
            _iou(ground_truth[rows[0]], predicted[exchanged[0]], time) if exchanged else -1
        )
    worst = 1.0
    # Without a sounding object there is no pair to check: the same classes mean that no track was predicted at all.
    for row, column in pairs if rows else ():
        silent = ground_truth[row].masks[time] is None and predicted[column].masks[time] is None
        if ground_truth[row].category != predicted[column].category:
            return _above_thresholds(-1)
        worst = min(worst, 1.0 if silent else _iou(ground_truth[row], predicted[column], time))
    return _above_thresholds(worst)


def _present(tracks: Sequence[Track], time: int) -> tuple[list[int], list[Run]]:
    """Numbers and masks of the tracks that have a mask in one frame."""
    present = [
        (number, mask) for number, track in enumerate(tracks) if (mask := track.masks[time]) is not None
    ]
    return [number for number, _ in present], [mask for _, mask in present]


def _length(track: Track) -> int:
    return sum(mask is not None for mask in track.masks)


def _iou(left: Track, right: Track, time: int) -> float:
    """IoU of two tracks in one frame; 0 if only one has a mask."""
    masks = left.masks[time], right.masks[time]
    return float(overlaps([masks[0]], [masks[1]])[0, 0]) if masks[0] and masks[1] else 0.0


def _above_thresholds(iou: float) -> np.ndarray:
    return (iou > THRESHOLDS).astype(float)
