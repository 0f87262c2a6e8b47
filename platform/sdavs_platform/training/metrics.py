"""What Prometheus sees of a training, through Ray's exporter, which puts `ray_` before each name."""

from ray.util.metrics import Gauge

_TAGS = ("run",)


class TrainingMetrics:
    """Gauges of one training. Written by its first worker; they vanish with it, restart with the next."""

    def __init__(self, run: str) -> None:
        self._tags = {"run": run}
        self._step = Gauge("sdavs_train_step", "Optimizer steps done", _TAGS)
        self._steps = Gauge("sdavs_train_steps", "Optimizer steps planned", _TAGS)
        self._seconds = Gauge("sdavs_train_step_seconds", "Seconds a step, mean since the last point", _TAGS)
        self._loss = Gauge("sdavs_train_loss", "Training loss, mean since the last point", _TAGS)
        self._miou = Gauge("sdavs_train_val_miou", "J of the latest validation", _TAGS)

    def step(self, *, step: int, total_steps: int, seconds: float, loss: float) -> None:
        """After `training.log_every` steps."""
        self._step.set(step, self._tags)
        self._steps.set(total_steps, self._tags)
        self._seconds.set(seconds, self._tags)
        self._loss.set(loss, self._tags)

    def validation(self, miou: float) -> None:
        """After each validation."""
        self._miou.set(miou, self._tags)
