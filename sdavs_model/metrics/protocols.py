"""The protocols by name, and the metrics that belong to a data set."""

from sdavs_model.data.benchmarks.avis import AVIS
from sdavs_model.data.core.clip_set import ClipSet
from sdavs_model.metrics.avis import AVISMetrics
from sdavs_model.metrics.base import Metrics, Mode
from sdavs_model.metrics.object import ObjectMetrics
from sdavs_model.metrics.semantic import SemanticMetrics
from sdavs_model.metrics.vpo import VPOMetrics

PROTOCOLS = {
    "object": "AVSBench-object: J and F of videos",
    "semantic": "AVSBench-semantic: IoU and F per frame and class",
    "vpo": "VPO: IoU, F and FDR of the whole split",
    "avis": "AVIS: FSLA, HOTA and mAP of tracks",
}
"""How reports name each protocol."""


def open_metrics(clips: ClipSet, *, mode: Mode = "official", videos_per_batch: int = 1) -> Metrics:
    """Empty metrics of a data set's protocol.

    Args:
        clips: any split of the data set; for AVIS the split to score.
        mode: "official" or "corrected", see `Mode`.
        videos_per_batch: see `ObjectMetrics`; other protocols have no such setting and take 1 alone.

    Raises:
        ValueError: an unknown mode, or a setting that the protocol does not have.
    """
    if mode not in ("official", "corrected"):
        raise ValueError(f"mode: {mode!r} is not allowed; allowed: official, corrected")
    if videos_per_batch != 1 and clips.protocol != "object":
        raise ValueError(
            f"videos_per_batch: the protocol {clips.protocol!r} has no such setting; leave it at 1"
        )
    if isinstance(clips, AVIS):
        return AVISMetrics(ground_truth=clips.ground_truth, num_classes=clips.num_classes, mode=mode)
    if clips.protocol == "object":
        return ObjectMetrics(mode=mode, videos_per_batch=videos_per_batch)
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


def protocol_in_words(protocol: str, *, mode: Mode, videos_per_batch: int) -> str:
    """The line of a report that states what its figures are comparable with."""
    name = f"{PROTOCOLS[protocol]}; {mode} figures"
    if protocol != ObjectMetrics.protocol or mode != "official":
        return name
    return f"{name}; {fscore_in_words(videos_per_batch)}"


def fscore_in_words(videos_per_batch: int = 1) -> str:
    """How a report states which official F of AVSBench-object it shows; see `ObjectMetrics`."""
    videos = "each video" if videos_per_batch == 1 else f"{videos_per_batch} videos"
    return f"F at the best threshold of {videos} (videos_per_batch {videos_per_batch})"
