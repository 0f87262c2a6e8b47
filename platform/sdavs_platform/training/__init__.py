"""Ray Train and DeepSpeed: the driver, the worker loop, checkpoints, faults, telemetry."""
