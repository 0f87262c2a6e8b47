"""Local folders and buckets: checkpoints, data sets, and the bundled data."""
