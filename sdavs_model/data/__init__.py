"""Clips and the data sets they come from: audio and pictures on disk -> tensors for the model."""
