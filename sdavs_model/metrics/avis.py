"""AVIS: FSLA, HOTA and mAP of instance tracks. HOTA and track mAP are TrackEval's, FSLA is in `fsla.py`.

Predicted tracks are made from predicted classes (`instances.py`) and have no mask in frames where they are silent. HOTA
and mAP are means over the categories.

Official, with the evaluator's quirks:

* HOTA gets every predicted track in every frame: a submission holds a run length for each frame, and its reader takes
  an empty one for a mask. A silent frame of a predicted track is thus a false positive.
* HOTA counts a category that occurs neither in the ground truth nor in the predictions as 0.

Corrected: a predicted track is in the frames in which it has a mask, and such categories are left out. For FSLA see
`fsla.py`; mAP is the same in both modes, as empty masks add nothing to its IoU of whole tracks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from sdavs_model.data.benchmarks.avis import Track, TrackedVideo
from sdavs_model.masks import masks_at_size
from sdavs_model.metrics.base import Metrics, Mode
from sdavs_model.metrics.fsla import FSLACounts, count_frames
from sdavs_model.metrics.instances import Region, empty_run, find_regions, link, overlaps

PredictedRegions = dict[str, dict[int, list[Region]]]
"""Predicted regions by video and frame."""


class AVISMetrics(Metrics):
    """FSLA, HOTA and mAP of a split; keeps the predicted regions as run lengths.

    Args:
        ground_truth: the videos of the split, by name.
        num_classes: classes including the background.
    """

    protocol = "avis"
    headline = "fsla"

    def __init__(
        self, *, ground_truth: Mapping[str, TrackedVideo], num_classes: int, mode: Mode = "official"
    ) -> None:
        self.mode: Mode = mode
        self.ground_truth = ground_truth
        self.num_classes = num_classes
        self._regions: PredictedRegions = {}

    def add_clip(self, logits: Tensor, clip: Mapping[str, Any]) -> None:
        """Add consecutive frames of one video, [T, K, S, S]."""
        video, first = clip["video"], int(clip["first_frame"])
        regions = self._regions.setdefault(video, {})
        size = self.ground_truth[video].height, self.ground_truth[video].width
        for time in range(int(clip["present"].sum())):
            # One frame at a time: a minute of full-size probabilities would not fit into memory.
            predicted = masks_at_size(logits[time : time + 1], size=size)
            regions[first + time] = find_regions(
                predicted.classes[0].cpu().numpy(), predicted.confidence[0].cpu().numpy()
            )

    def compute(self) -> dict[str, float]:
        """{"fsla", "hota", "map"}, and FSLA by the number of sounding objects.

        The latter are "fsla_none", "fsla_single" and "fsla_multi", each only if the split has such frames.

        Raises:
            ValueError: no video was added, or only a part of one.
        """
        if not self._regions:
            raise ValueError("compute() before any add_clip(): no video was evaluated")
        predicted: dict[str, list[Track]] = {}
        for name, frames in self._regions.items():
            length = len(self.ground_truth[name].files)
            if len(frames) != length:
                raise ValueError(f"video {name!r}: {len(frames)} of {length} frames were evaluated")
            predicted[name] = link([frames[time] for time in range(length)])
        return self.scores(predicted)

    def scores(self, predicted: Mapping[str, Sequence[Track]]) -> dict[str, float]:
        """The scores of tracks by video, however they were predicted."""
        counts = FSLACounts()
        for name, tracks in predicted.items():
            video = self.ground_truth[name]
            count_frames(counts, video.tracks, tracks, len(video.files), self.mode)
        return counts.scores() | self._tracking_scores(predicted)

    def state(self) -> PredictedRegions:
        """The regions predicted so far."""
        return self._regions

    def merge(self, state: PredictedRegions) -> None:
        """Add another worker's `state()`."""
        for video, frames in state.items():
            self._regions.setdefault(video, {}).update(frames)

    def _tracking_scores(self, predicted: Mapping[str, Sequence[Track]]) -> dict[str, float]:
        # Imported here: only AVIS needs it.
        from trackeval.metrics import HOTA, TrackMAP

        hota = HOTA()
        track_map = TrackMAP({"USE_AREA_RANGES": False, "USE_TIME_RANGES": False, "PRINT_CONFIG": False})
        by_class: dict[int, tuple[Any, Any]] = {}
        for category in range(1, self.num_classes):
            sequences = {
                name: trackeval_sequence(self.ground_truth[name], tracks, category, mode=self.mode)
                for name, tracks in predicted.items()
            }
            by_class[category] = tuple(
                metric.combine_sequences(
                    {name: metric.eval_sequence(data) for name, data in sequences.items()}
                )
                for metric in (hota, track_map)
            )
        averaged = hota.combine_classes_class_averaged(
            {category: pair[0] for category, pair in by_class.items()},
            ignore_empty_classes=self.mode == "corrected",
        )
        precision = track_map.combine_classes_class_averaged({c: pair[1] for c, pair in by_class.items()})
        # TrackEval returns -1 if no category occurs at all.
        return {
            "hota": float(np.mean(averaged["HOTA"])),
            "map": max(float(np.mean(precision["AP_all"])), 0.0),
        }


def trackeval_sequence(
    video: TrackedVideo, predicted: Sequence[Track], category: int, *, mode: Mode
) -> dict[str, Any]:
    """One category of one video in the form that TrackEval's metrics take."""
    num_frames = len(video.files)
    true = [t for t in video.tracks if t.category == category and any(mask is not None for mask in t.masks)]
    # TrackMAP expects tracks in descending order of their scores.
    predicted = sorted((t for t in predicted if t.category == category), key=lambda track: -track.score)
    times = range(num_frames)
    empty = empty_run(video.height, video.width) if mode == "official" else None
    gt_runs = [{i: run for i, t in enumerate(true) if (run := t.masks[time]) is not None} for time in times]
    tracker_runs = [
        {i: run for i, t in enumerate(predicted) if (run := t.masks[time] or empty) is not None}
        for time in times
    ]
    tracks = {
        side: [{t: mask for t, mask in enumerate(track.masks) if mask is not None} for track in tracks]
        for side, tracks in (("gt", true), ("dt", predicted))
    }
    return {
        "num_timesteps": num_frames,
        "num_gt_ids": len(true),
        "num_tracker_ids": len(predicted),
        "num_gt_dets": sum(map(len, gt_runs)),
        "num_tracker_dets": sum(map(len, tracker_runs)),
        "gt_ids": [np.array(list(runs), int) for runs in gt_runs],
        "tracker_ids": [np.array(list(runs), int) for runs in tracker_runs],
        "similarity_scores": [
            overlaps([*left.values()], [*right.values()])
            for left, right in zip(gt_runs, tracker_runs, strict=True)
        ],
        # From 1 on: TrackMAP uses 0 for "not matched yet".
        "gt_track_ids": list(range(1, len(true) + 1)),
        "dt_track_ids": list(range(1, len(predicted) + 1)),
        "gt_tracks": tracks["gt"],
        "dt_tracks": tracks["dt"],
        "dt_track_scores": np.array([track.score for track in predicted]),
        "iou_type": "mask",
    }
