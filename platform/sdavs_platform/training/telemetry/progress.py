"""The reports of a training: log lines, metrics for MLflow and Prometheus, pictures."""

import functools
import logging
import time
from typing import Any

import torch
from PIL.Image import Image

from sdavs_platform.config.tree import RunConfig
from sdavs_platform.tracking.plots import learning_curve, prediction_panel
from sdavs_platform.tracking.runs import Point, TrainingRun
from sdavs_platform.training.checkpoints.checkpoint import LoopState, Probe
from sdavs_platform.training.telemetry.delivery_queue import DeliveryQueue
from sdavs_platform.training.telemetry.metrics import TrainingMetrics
from sdavs_platform.training.telemetry.tensorboard import TensorBoard

logger = logging.getLogger(__name__)


class Progress:
    """The first worker reports for all; every method does nothing on the others.

    Args:
        is_sender: whether this is the first worker.
        state: what a checkpoint says of the training so far.
        unsent: points that the checkpoint kept because they had not arrived.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        uri: str,
        run_id: str,
        is_sender: bool,
        state: LoopState,
        unsent: list[Point],
        total_steps: int,
    ) -> None:
        self.config = config
        self.run = TrainingRun(uri=uri, run_id=run_id) if is_sender else None
        self._metrics = TrainingMetrics(config.name) if is_sender else None
        self.total_steps = total_steps
        # Steps after the checkpoint, and points in it, may have arrived before the training was interrupted.
        self._last_sent = {
            key: max((step for step, _ in self.run.history(key)), default=0) if self.run else 0
            for key in ("train/loss", "val/miou")
        }
        new = [point for point in unsent if self._is_new(point)]
        self._queue = DeliveryQueue(self.run, points=new) if self.run else None
        self._tensorboard: TensorBoard | None = None
        if is_sender and config.tracking.tensorboard:
            self._tensorboard = TensorBoard(f"{config.storage.uri}/{config.name}", step=state.step)
        self._last = (state.step, time.monotonic())

    def step(self, state: LoopState, *, losses: dict[str, float], readings: dict[str, float]) -> None:
        """Every `training.log_every` steps: losses are means over those steps and over the workers.

        Args:
            readings: what else is known of them, by its name in MLflow; "train/lr" among it.
        """
        if not self.run or not self._metrics or not self._queue:
            return
        speed = self._clips_per_second(state.step)
        values = {f"train/{name}": value for name, value in losses.items()} | readings
        values |= {"train/clips_per_s": speed, "time/step": self.config.training.batch_size / speed}
        self._metrics.step(values, step=state.step, total_steps=self.total_steps)
        if self._is_new((state.step, values)):
            self._queue.put((state.step, values))
        if self._tensorboard:
            self._tensorboard.add((state.step, values))
        parts = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        logger.info(
            f"epoch {state.epoch + 1}/{self.config.training.epochs} step {state.step}/{self.total_steps} | "
            f"{parts} | lr {readings['train/lr']:.1e} | {speed:.1f} clips/s | {self._remaining(state, speed)}"
        )

    def validation(
        self, state: LoopState, *, scores: dict[str, float], improved: bool, masks: torch.Tensor, probe: Probe
    ) -> None:
        """After each validation: scores, the learning curve so far, and the fixed clips' predictions."""
        if not self.run or not self._metrics or not self._queue:
            return
        self._metrics.validation(scores["miou"])
        scores = {f"val/{name}": value for name, value in scores.items()}
        point = (state.step, scores | {"epoch": float(state.epochs_begun)})
        if self._is_new(point):
            self._queue.put(point)
        if self._tensorboard:
            self._tensorboard.add(point)
        best = "best so far" if improved else f"best {state.best_score:.3f} in epoch {state.best_epoch}"
        listening = ""
        if "val/listening" in scores:
            listening = f" J swapped {scores['val/miou_swapped']:.3f} J + gap {scores['val/listening']:.3f}"
        logger.info(
            f"epoch {state.epochs_begun} validated | "
            f"J {scores['val/miou']:.3f} F {scores['val/fscore']:.3f}{listening} ({best})"
        )
        panel = prediction_panel(probe.frames, masks, probe.logits, self.config.model.preprocess)
        self._queue.send(functools.partial(_draw, self.run, panel))
        self._last = (state.step, time.monotonic())

    def send(self) -> None:
        """Start to deliver the points gathered so far, in the background."""
        if self._queue:
            self._queue.send()

    def unsent(self) -> list[Point]:
        """Points that have not arrived at MLflow."""
        return self._queue.unsent() if self._queue else []

    def close(self) -> None:
        """Deliver everything, also if MLflow has to be waited for.

        Raises:
            RuntimeError: it stays away.
        """
        if self._tensorboard:
            self._tensorboard.close()
        if self._queue:
            self._queue.close()

    def _is_new(self, point: Point) -> bool:
        step, values = point
        return all(step > sent for key, sent in self._last_sent.items() if key in values)

    def _clips_per_second(self, step: int) -> float:
        before, since = self._last
        now = time.monotonic()
        self._last = (step, now)
        return (step - before) * self.config.training.batch_size / (now - since)

    def _remaining(self, state: LoopState, speed: float) -> str:
        seconds = (self.total_steps - state.step) * self.config.training.batch_size / speed
        if self.config.training.max_minutes is not None:
            seconds = min(seconds, max(self.config.training.max_minutes * 60 - state.elapsed_s, 0))
        return f"ETA {int(seconds // 60)}:{int(seconds % 60):02d}"


def _draw(run: TrainingRun, panel: Image) -> None:
    run.log_image(panel, "pictures/predictions.png")
    run.log_figure(learning_curve(run), "pictures/learning_curve.png")


def means(parts: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
    """The mean of each loss part over steps and workers; all workers call this together."""
    names = list(parts[0])
    values = torch.stack(
        [torch.stack([part[name].detach().float() for name in names]) for part in parts]
    ).mean(0)
    torch.distributed.all_reduce(values)
    return dict(zip(names, (values / torch.distributed.get_world_size()).tolist(), strict=True))
