"""Evaluation protocols, one file each; their figures are never mixed."""

from sdavs_model.metrics.object import ObjectMetrics

__all__ = ["ObjectMetrics"]
