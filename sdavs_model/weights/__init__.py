"""Pretrained weights: read safely, loaded with a clear account of what does not fit."""
