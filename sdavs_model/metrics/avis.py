"""AVIS: FSLA, HOTA and mAP of instance tracks. HOTA and track mAP are TrackEval's, FSLA is `fsla.py`.

The answer's tracks come from its classes (`instances.py`) and have no masks where they are silent. HOTA and mAP are
averages over the categories. Official: HOTA counts a category that neither truth nor answer ever has as 0, as the
evaluator does. Corrected: it leaves such categories out. For FSLA see there; mAP is the same in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from sdavs_model.data.benchmarks.avis import Track, TrackedVideo
from sdavs_model.masks import masks_at_size
from sdavs_model.metrics.base import Metrics, Mode
from sdavs_model.metrics.fsla import FSLACounts, count_frames
from sdavs_model.metrics.instances import Region, find_regions, link, overlaps

Found = dict[str, dict[int, list[Region]]]
"""Regions by video and frame."""


class AVISMetrics(Metrics):
    """Streaming; holds the regions found, as run lengths."""

    protocol = "avis"
    headline = "fsla"

    def __init__(
        self, *, truth: Mapping[str, TrackedVideo], num_classes: int, mode: Mode = "official"
    ) -> None:
        self.mode: Mode = mode
        self.truth = truth
        self.num_classes = num_classes
        self._found: Found = {}

    def add_clip(self, logits: Tensor, clip: Mapping[str, Any]) -> None:
        """Add one run of a video's frames, [T, K, S, S]."""
        video, first = clip["video"], int(clip["first_frame"])
        found = self._found.setdefault(video, {})
        size = self.truth[video].height, self.truth[video].width
        for time in range(int(clip["present"].sum())):
            # One frame at a time: a minute of full-size probabilities would not fit into memory.
            answer = masks_at_size(logits[time : time + 1], size=size)
            found[first + time] = find_regions(
                answer.classes[0].cpu().numpy(), answer.confidence[0].cpu().numpy()
            )

    def compute(self) -> dict[str, float]:
        """{"fsla", "hota", "map"} and FSLA by how many objects sound ("fsla_none", "fsla_single", "fsla_multi").

        Raises:
            ValueError: no video was added, or only a part of one.
        """
        if not self._found:
            raise ValueError("compute() before any add_clip(): no video was evaluated")
        answers: dict[str, list[Track]] = {}
        for name, frames in self._found.items():
            length = len(self.truth[name].files)
            if len(frames) != length:
                raise ValueError(f"video {name!r}: {len(frames)} of {length} frames were evaluated")
            answers[name] = link([frames[time] for time in range(length)])
        return self.scores(answers)

    def scores(self, answers: Mapping[str, Sequence[Track]]) -> dict[str, float]:
        """The same for tracks by video, however they were found."""
        counts = FSLACounts()
        for name, found in answers.items():
            video = self.truth[name]
            count_frames(counts, video.tracks, found, len(video.files), self.mode)
        return counts.scores() | self._tracking(answers)

    def state(self) -> Found:
        """The regions found so far."""
        return self._found

    def merge(self, state: Found) -> None:
        """Add another worker's `state()`."""
        for video, frames in state.items():
            self._found.setdefault(video, {}).update(frames)

    def _tracking(self, answers: Mapping[str, Sequence[Track]]) -> dict[str, float]:
        # Imported here: only AVIS needs it.
        from trackeval.metrics import HOTA, TrackMAP

        hota = HOTA()
        track_map = TrackMAP({"USE_AREA_RANGES": False, "USE_TIME_RANGES": False, "PRINT_CONFIG": False})
        by_class: dict[int, tuple[Any, Any]] = {}
        for category in range(1, self.num_classes):
            sequences = {
                name: sequence(self.truth[name].tracks, found, category, len(self.truth[name].files))
                for name, found in answers.items()
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
        # Without any category there is nothing to find: TrackEval's mark for that is -1.
        return {
            "hota": float(np.mean(averaged["HOTA"])),
            "map": max(float(np.mean(precision["AP_all"])), 0.0),
        }


def sequence(true: Sequence[Track], found: Sequence[Track], category: int, num_frames: int) -> dict[str, Any]:
    """One video and one category in the form that TrackEval's metrics take."""
    true = [t for t in true if t.category == category and any(mask is not None for mask in t.masks)]
    # TrackMAP takes tracks in the order of their scores.
    found = sorted((t for t in found if t.category == category), key=lambda track: -track.score)
    times = range(num_frames)
    ids = {
        side: [
            np.array([i for i, t in enumerate(tracks) if t.masks[time] is not None], int) for time in times
        ]
        for side, tracks in (("gt", true), ("tracker", found))
    }
    similarity = [
        overlaps(
            [true[i].masks[t] or {} for i in ids["gt"][t]],
            [found[i].masks[t] or {} for i in ids["tracker"][t]],
        )
        for t in times
    ]
    runs = {
        side: [{t: mask for t, mask in enumerate(track.masks) if mask is not None} for track in tracks]
        for side, tracks in (("gt", true), ("dt", found))
    }
    return {
        "num_timesteps": num_frames,
        "num_gt_ids": len(true),
        "num_tracker_ids": len(found),
        "num_gt_dets": sum(len(frame) for frame in ids["gt"]),
        "num_tracker_dets": sum(len(frame) for frame in ids["tracker"]),
        "gt_ids": ids["gt"],
        "tracker_ids": ids["tracker"],
        "similarity_scores": similarity,
        # From 1 on: TrackMAP takes 0 for "not matched yet".
        "gt_track_ids": list(range(1, len(true) + 1)),
        "dt_track_ids": list(range(1, len(found) + 1)),
        "gt_tracks": runs["gt"],
        "dt_tracks": runs["dt"],
        "dt_track_scores": np.array([track.score for track in found]),
        "iou_type": "mask",
    }
