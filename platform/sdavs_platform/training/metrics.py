"""What Prometheus sees of a training, through Ray's exporter, which puts `ray_` before each name."""

from collections.abc import Mapping

from ray.util.metrics import Gauge

_TAGS = ("run",)


class TrainingMetrics:
    """Gauges of one training. Written by its first worker; they vanish with it, restart with the next."""

    def __init__(self, run: str) -> None:
        self._tags = {"run": run}
        self._step = Gauge("sdavs_train_step", "Optimizer steps done", _TAGS)
        self._steps = Gauge("sdavs_train_steps", "Optimizer steps planned", _TAGS)
        self._miou = Gauge("sdavs_train_val_miou", "J of the latest validation", _TAGS)
        self._parts = Gauge(
            "sdavs_train_part_seconds",
            "Seconds a step by part, mean over workers since the last point; communication lies inside the others",
            ("run", "part"),
        )
        # By their names in MLflow.
        self._of_step = {
            "time/step": Gauge(
                "sdavs_train_step_seconds", "Seconds a step, mean since the last point", _TAGS
            ),
            "train/loss": Gauge("sdavs_train_loss", "Training loss, mean since the last point", _TAGS),
            "train/clips_per_s": Gauge("sdavs_train_clips_per_second", "Clips of all workers", _TAGS),
            "train/grad_norm": Gauge("sdavs_train_grad_norm", "Global gradient norm before clipping", _TAGS),
            "train/loss_scale": Gauge("sdavs_train_loss_scale", "Factor of the loss; 1 but for fp16", _TAGS),
            "gpu/memory_gb": Gauge("sdavs_train_gpu_memory_gb", "Peak since the last point", _TAGS),
            "gpu/utilization": Gauge("sdavs_train_gpu_utilization", "Percent, first worker's GPU", _TAGS),
        }

    def step(self, values: Mapping[str, float], *, step: int, total_steps: int) -> None:
        """After `training.log_every` steps; values by their names in MLflow."""
        self._step.set(step, self._tags)
        self._steps.set(total_steps, self._tags)
        for name, gauge in self._of_step.items():
            if name in values:
                gauge.set(values[name], self._tags)
        for name, value in values.items():
            if name.startswith("time/") and name not in self._of_step:
                self._parts.set(value, self._tags | {"part": name.removeprefix("time/")})

    def validation(self, miou: float) -> None:
        """After each validation."""
        self._miou.set(miou, self._tags)
