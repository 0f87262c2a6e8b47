"""The validation split, scored by all workers together."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from sdavs_model.metrics import Metrics
from sdavs_model.metrics.listening import listening_scores
from sdavs_model.precision import cast
from sdavs_model.training_step import evaluate, move
from sdavs_platform.deepspeed_internals import gather_weights
from sdavs_platform.training.batches import Batches
from sdavs_platform.training.checkpoints.checkpoint import Probe
from sdavs_platform.training.engine import CastInputs
from sdavs_platform.training.faults.watchdog import Watchdog


class Validator:
    """Scores the live engine. All workers call each method at the same time.

    Args:
        whole: for ZeRO-3, a replica of the module that gets the weights of all workers before each validation. ZeRO-3
            gathers weights in every call of a module, so workers whose clips differ in number or length would wait for
            each other in different calls. On the replica nobody waits. None for the other stages, which have all
            weights everywhere.

    Attributes:
        fixed: the few clips of every picture and probe.
    """

    def __init__(
        self,
        engine: Any,
        model: CastInputs,
        *,
        batches: Batches,
        watchdog: Watchdog,
        whole: nn.Module | None = None,
    ) -> None:
        self.fixed = batches.fixed_batch()
        self._engine = engine
        self._model = model
        self._batches = batches
        self._watchdog = watchdog
        self._whole = whole

    def score(self) -> dict[str, float]:
        """The protocol's figures of the whole split, the same on all workers.

        If checkpoints are chosen by listening, also those of `listening_scores`.
        """
        self._average_buffers()
        model = self._model if self._whole is None else self._gathered(self._whole)
        scores = self._scored(model, self._batches.validation())
        if (swapped := self._batches.swapped_validation()) is not None:
            miou_swapped = self._scored(model, swapped)["miou"]
            scores |= listening_scores(miou=scores["miou"], miou_swapped=miou_swapped)
        return scores

    @torch.no_grad()
    def predict_fixed_clips(self) -> Probe:
        """The live engine's prediction of the fixed clips."""
        was_training = self._model.training
        self._model.eval()
        batch = move(self.fixed, self._engine.device)
        logits = self._model(batch["frames"], batch["log_mel"])
        self._model.train(was_training)
        return Probe(
            frames=self.fixed["frames"], log_mel=self.fixed["log_mel"], logits=logits, dtype=self._model.dtype
        )

    def _gathered(self, whole: nn.Module) -> CastInputs:
        cast(whole.to(self._engine.device), self._model.dtype)
        gather_weights(self._engine.module, into=whole)
        return CastInputs(whole, self._model.dtype)

    def _average_buffers(self) -> None:
        """Batch norms inside a backbone (ResNets) see one worker's clips; validate, and save, the mean of all."""
        for buffer in self._engine.module.trained_buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= dist.get_world_size()

    def _scored(self, model: CastInputs, part: Iterable[dict[str, Any]]) -> dict[str, float]:
        metrics = evaluate(
            model,
            self._watchdog.beating(part),
            device=self._engine.device,
            metrics=self._batches.metrics(),
        )
        return self._merged(metrics).compute()

    def _merged(self, metrics: Metrics) -> Metrics:
        states: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(states, metrics.state())
        merged = self._batches.metrics()
        for state in states:
            merged.merge(state)
        return merged
