"""Local folders and buckets: files, data sets, and shards that are read while training."""
