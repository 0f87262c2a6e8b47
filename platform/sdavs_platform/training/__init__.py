"""Ray Train + DeepSpeed: the driver, the worker loop, checkpoints."""
