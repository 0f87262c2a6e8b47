"""Evaluation protocols, one file each. Figures of different protocols are not comparable."""

from sdavs_model.metrics.avis import AVISMetrics
from sdavs_model.metrics.base import Metrics, Mode
from sdavs_model.metrics.object import ObjectMetrics
from sdavs_model.metrics.protocols import (
    fscore_in_words,
    headline_of,
    open_metrics,
    protocol_in_words,
    validation_metrics,
)
from sdavs_model.metrics.semantic import SemanticMetrics
from sdavs_model.metrics.vpo import VPOMetrics

__all__ = [
    "AVISMetrics",
    "Metrics",
    "Mode",
    "ObjectMetrics",
    "SemanticMetrics",
    "VPOMetrics",
    "fscore_in_words",
    "headline_of",
    "open_metrics",
    "protocol_in_words",
    "validation_metrics",
]
