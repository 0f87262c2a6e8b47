"""The protocols by name, and the one way to the metrics of a data set."""

from __future__ import annotations

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
"""What a report calls each; figures of different protocols are never compared."""


def open_metrics(clips: ClipSet, *, mode: Mode = "official") -> Metrics:
    """Empty metrics of the protocol of a data set.

    Args:
        clips: any split of it; for AVIS the split that is scored.
        mode: the official numbers with their quirks, or the corrected ones.

    Raises:
        ValueError: an unknown mode.
    """
    if mode not in ("official", "corrected"):
        raise ValueError(f"mode: {mode!r} is not allowed; allowed: official, corrected")
    if isinstance(clips, AVIS):
        return AVISMetrics(truth=clips.truth, num_classes=clips.num_classes, mode=mode)
    if clips.protocol == "object":
        return ObjectMetrics(mode=mode)
    if clips.protocol == "semantic":
        return SemanticMetrics(num_classes=clips.num_classes, mode=mode)
    return VPOMetrics(num_classes=clips.num_classes, mode=mode)


def validation_metrics(clips: ClipSet) -> Metrics:
    """What chooses checkpoints during a training: figures "miou" and "fscore", whatever the data set.

    For AVIS that is each class's IoU per frame (our choice): tracks need whole videos, and a training's early answers
    fall into thousands of regions.
    """
    if isinstance(clips, AVIS):
        return SemanticMetrics(num_classes=clips.num_classes, mode="corrected")
    return open_metrics(clips)


def headline_of(protocol: str) -> str:
    """The figure of a protocol that chooses checkpoints."""
    return AVISMetrics.headline if protocol == AVISMetrics.protocol else ObjectMetrics.headline
