"""The validation split, scored by all workers together."""

from typing import Any

import torch
import torch.distributed as dist

from sdavs_model.engine import evaluate, move
from sdavs_model.metrics import Metrics
from sdavs_platform.training.batches import Batches
from sdavs_platform.training.checkpoints.checkpoint import Probe
from sdavs_platform.training.engine import CastInputs
from sdavs_platform.training.faults.watchdog import Watchdog


class Validator:
    """Scores the live engine. All workers call each method at the same time.

    Attributes:
        fixed: the few clips of every picture and probe.
    """

    def __init__(self, engine: Any, model: CastInputs, *, batches: Batches, watchdog: Watchdog) -> None:
        self.fixed = batches.fixed_batch()
        self._engine = engine
        self._model = model
        self._batches = batches
        self._watchdog = watchdog

    def score(self) -> dict[str, float]:
        """The protocol's figures of the whole split, the same on all workers."""
        self._average_buffers()
        share = self._batches.validation()
        metrics = evaluate(
            self._model,
            self._watchdog.beating(share),
            device=self._engine.device,
            metrics=self._batches.metrics(),
        )
        if len(share) < self._batches.num_val_batches:
            # ZeRO-3 gathers weights in every forward pass: all workers must make equally many.
            self.predict_fixed_clips()
        return self._merged(metrics).compute()

    @torch.no_grad()
    def predict_fixed_clips(self) -> Probe:
        """The live engine's prediction of the fixed clips."""
        was_training = self._model.training
        self._model.eval()
        batch = move(self.fixed, self._engine.device)
        logits = self._model(batch["frames"], batch["log_mel"])
        self._model.train(was_training)
        return Probe(frames=self.fixed["frames"], log_mel=self.fixed["log_mel"], logits=logits)

    def _average_buffers(self) -> None:
        """Batch norms inside a backbone (ResNets) see one worker's clips; validate, and save, the mean of all."""
        for buffer in self._engine.module.trained_buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= dist.get_world_size()

    def _merged(self, metrics: Metrics) -> Metrics:
        states: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(states, metrics.state())
        merged = self._batches.metrics()
        for state in states:
            merged.merge(state)
        return merged
