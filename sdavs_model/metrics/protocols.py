"""The protocols by name, and the metrics that belong to a data set."""

from sdavs_model.data.benchmarks.avis import AVIS
from sdavs_model.data.core.clip_set import ClipSet
from sdavs_model.metrics.avis import AVISMetrics
from sdavs_model.metrics.base import Metrics, Mode
from sdavs_model.metrics.object import ObjectMetrics
from sdavs_model.metrics.semantic import SemanticMetrics
from sdavs_model.metrics.vpo import VPOMetrics

PROTOCOLS = {
    "object": "AVSBench-object: J and F per video",
    "semantic": "AVSBench-semantic: IoU and F per frame and class",
    "vpo": "VPO: IoU, F and FDR of the whole split",
    "avis": "AVIS: FSLA, HOTA and mAP of tracks",
}
"""How reports name each protocol."""


def open_metrics(clips: ClipSet, *, mode: Mode = "official") -> Metrics:
    """Empty metrics of a data set's protocol.

    Args:
        clips: any split of the data set; for AVIS the split to score.
        mode: "official" or "corrected", see `Mode`.

    Raises:
        ValueError: an unknown mode.
    """
    if mode not in ("official", "corrected"):
        raise ValueError(f"mode: {mode!r} is not allowed; allowed: official, corrected")
    if isinstance(clips, AVIS):
        return AVISMetrics(ground_truth=clips.truth, num_classes=clips.num_classes, mode=mode)
    if clips.protocol == "object":
        return ObjectMetrics(mode=mode)
    if clips.protocol == "semantic":
        return SemanticMetrics(num_classes=clips.num_classes, mode=mode)
    return VPOMetrics(num_classes=clips.num_classes, mode=mode)


def validation_metrics(clips: ClipSet) -> Metrics:
    """Metrics for choosing checkpoints during training: "miou" and "fscore" for every data set.

    For AVIS these are each class's IoU and F per frame (our choice): tracks need whole videos, and early in training
    the predictions fall into thousands of regions.
    """
    if isinstance(clips, AVIS):
        return SemanticMetrics(num_classes=clips.num_classes, mode="corrected")
    return open_metrics(clips)


def headline_of(protocol: str) -> str:
    """The name of a protocol's main figure."""
    return AVISMetrics.headline if protocol == AVISMetrics.protocol else ObjectMetrics.headline
