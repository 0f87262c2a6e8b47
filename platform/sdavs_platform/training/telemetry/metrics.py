"""A training's Prometheus metrics, through Ray's exporter, which puts `ray_` before each name."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ray.util.metrics import Gauge

REPEAT_S = 5.0
"""Ray's exporter forgets a gauge that was not set during two of its intervals, of 10 seconds each."""

_TAGS = ("run",)


class _Lasting:
    """Sets gauges again and again to what they were set to last, until `end` or the end of the process."""

    def __init__(self) -> None:
        self._last: dict[tuple[Gauge, tuple[str, ...]], tuple[float, dict[str, str]]] = {}
        self._over = threading.Event()
        threading.Thread(target=self._repeat, name="metrics", daemon=True).start()

    def set(self, gauge: Gauge, value: float, tags: dict[str, str]) -> None:
        self._last[gauge, tuple(tags.values())] = (value, tags)
        gauge.set(value, tags)

    def end(self) -> None:
        self._over.set()

    def _repeat(self) -> None:
        while not self._over.wait(REPEAT_S):
            for (gauge, _), (value, tags) in list(self._last.items()):
                gauge.set(value, tags)


@contextmanager
def underway(run: str) -> Iterator[None]:
    """Context manager around the driver's wait for the training: exports that it waits, even if the workers hang."""
    lasting = _Lasting()
    lasting.set(
        Gauge("sdavs_train_underway", "1 while the driver waits for the workers", _TAGS), 1, {"run": run}
    )
    try:
        yield
    finally:
        lasting.end()


class TrainingMetrics:
    """Gauges of one training. Written by its first worker; they vanish with it, restart with the next."""

    def __init__(self, run: str) -> None:
        self._tags = {"run": run}
        self._lasting = _Lasting()
        self._step = Gauge("sdavs_train_step", "Optimizer steps done", _TAGS)
        self._steps = Gauge("sdavs_train_steps", "Optimizer steps planned", _TAGS)
        self._miou = Gauge("sdavs_train_val_miou", "J of the latest validation", _TAGS)
        self._parts = Gauge(
            "sdavs_train_part_seconds",
            "Seconds a step by part, mean over workers since the last point; communication is inside the others, "
            "and only measured with training.profile",
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
        self._lasting.set(self._step, step, self._tags)
        self._lasting.set(self._steps, total_steps, self._tags)
        for name, gauge in self._of_step.items():
            if name in values:
                self._lasting.set(gauge, values[name], self._tags)
        for name, value in values.items():
            if name.startswith("time/") and name not in self._of_step:
                self._lasting.set(self._parts, value, self._tags | {"part": name.removeprefix("time/")})

    def validation(self, miou: float) -> None:
        """After each validation."""
        self._lasting.set(self._miou, miou, self._tags)
