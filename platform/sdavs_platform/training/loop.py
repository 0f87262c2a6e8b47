"""What every training worker does, on one page. Ray Train starts it; DeepSpeed joins the workers."""

import logging
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
import torch.distributed as dist

from sdavs_model import build_model
from sdavs_model.engine import evaluate, move, training_loss
from sdavs_model.metrics import Metrics
from sdavs_platform.config import RunConfig
from sdavs_platform.training.batches import Batches
from sdavs_platform.training.checkpoint import LoopState, Probe, load_checkpoint, save_checkpoint
from sdavs_platform.training.engine import CastInputs, build_engine, compute_dtype, keeping_hyperparameters
from sdavs_platform.training.progress import Progress, means


def train_worker(settings: dict[str, Any]) -> None:
    """Train until the epochs, the time budget or the patience are used up.

    Args:
        settings: `config` (RunConfig as plain values), `tracking_uri`, `run_id`, and `start_from` (None or
            the checkpoint of another training).

    Raises:
        ValueError: a file of the data set cannot be read; names it.
        FloatingPointError: the loss is not finite; names the step and the clips.
    """
    worker = Worker(settings)
    state = worker.resume()
    while not worker.is_done(state):
        worker.train_epoch(state)
        if worker.validates_after(state):
            worker.validate(state)
            worker.report(state)
    worker.progress.flush()


class Worker:
    """One of the training processes: its model, data and place among the others."""

    def __init__(self, settings: dict[str, Any]) -> None:
        config = RunConfig.model_validate(settings["config"])
        context = ray.train.get_context()
        self.config = config
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.started = time.monotonic()
        # Warnings of Ray and DeepSpeed only; what a person follows is printed.
        logging.disable(logging.INFO)
        torch.set_num_threads(config.cluster.cpus_per_worker)
        seed_everything(config.seed, self.rank)

        self.batches = Batches(config, rank=self.rank, world_size=self.world_size)
        self.total_steps = len(self.batches.sampler) * config.training.epochs
        self.engine = build_engine(
            config, build_model(config.model), total_steps=self.total_steps, world_size=self.world_size
        )
        self.device = self.engine.device
        self.model = CastInputs(self.engine, compute_dtype(config))
        self.fixed = self.batches.fixed_batch()
        self.settings = settings

    def resume(self) -> LoopState:
        """Continue from the newest checkpoint of this name, else from another training's, if there is one."""
        state = LoopState()
        if checkpoint := ray.train.get_checkpoint():
            with checkpoint.as_directory() as folder:
                state = load_checkpoint(
                    Path(folder), engine=self.engine, rank=self.rank, world_size=self.world_size
                )
        elif start_from := self.settings["start_from"]:
            other = ray.train.Checkpoint(start_from)
            with other.as_directory() as folder, keeping_hyperparameters(self.engine):
                state = load_checkpoint(
                    Path(folder), engine=self.engine, rank=self.rank, world_size=self.world_size
                )
        self.elapsed_before_s = state.elapsed_s
        self.progress = Progress(
            self.config,
            uri=self.settings["tracking_uri"],
            run_id=self.settings["run_id"],
            speaks=self.rank == 0,
            state=state,
            total_steps=self.total_steps,
        )
        where = f"resuming after epoch {state.epoch}" if state.epoch else "starting"
        self.progress.say(
            f"{self.config.name}: {where} | {len(self.batches.clips)} clips, {len(self.batches.val_clips)} to "
            f"validate | {self.world_size} workers, ZeRO-{self.config.deepspeed.zero_stage}, "
            f"{sum(p.numel() for p in self.engine.module.parameters()) / 1e6:.1f} M weights"
        )
        return state

    def is_done(self, state: LoopState) -> bool:
        """All epochs done, or stopped early."""
        if state.stopped and state.stopped.startswith("time") and not self._out_of_time():
            state.stopped = None  # a resume with a larger budget
        return state.stopped is not None or state.epoch >= self.config.training.epochs

    def train_epoch(self, state: LoopState) -> None:
        """One pass over the training split, or less if time runs out."""
        self.model.train()
        parts: list[dict[str, torch.Tensor]] = []
        for batch in self.batches.epoch(state.epoch):
            parts.append(self.train_step(batch, state))
            if state.step % self.config.training.log_every == 0:
                self.log_step(parts, state)
                parts = []
                if state.stopped:
                    break
        state.epoch += 1

    def train_step(self, batch: dict[str, Any], state: LoopState) -> dict[str, torch.Tensor]:
        """Forward, backward, update; DeepSpeed reduces, clips and steps the schedule."""
        try:
            losses = training_loss(self.model, move(batch, self.device))
        except FloatingPointError as error:
            raise FloatingPointError(f"step {state.step + 1}: {error}") from None
        self.engine.backward(losses["loss"])
        self.engine.step()
        state.step += 1
        return losses

    def log_step(self, parts: list[dict[str, torch.Tensor]], state: LoopState) -> None:
        """Means since the last line; here the workers also agree on whether time is up."""
        losses = means(parts)
        state.elapsed_s = self._elapsed_s()
        if self._any(self._out_of_time()):
            state.stopped = f"time budget of {self.config.training.max_minutes:g} minutes used"
        norm = self.engine.get_global_grad_norm()
        lr = max(self.engine.get_lr())
        self.progress.step(state, losses=losses, lr=lr, grad_norm=float(norm) if norm is not None else 0.0)

    def validates_after(self, state: LoopState) -> bool:
        """Every `val_every` epochs and at the end."""
        return state.epoch % self.config.training.val_every == 0 or self.is_done(state)

    def validate(self, state: LoopState) -> None:
        """Score the validation split, shared over the workers; keep count of gains for early stopping."""
        self.average_buffers()
        share = self.batches.validation()
        metrics = evaluate(self.model, share, device=self.device, metrics=self.batches.metrics())
        if len(share) < self.batches.num_val_batches:
            # ZeRO-3 gathers weights in every forward pass: all workers must make equally many.
            self.look_at_fixed_clips()
        scores = self._merged(metrics).compute()
        improved = scores["miou"] > state.best_miou
        state.validations_without_gain = 0 if improved else state.validations_without_gain + 1
        if improved:
            state.best_miou, state.best_epoch = scores["miou"], state.epoch
        patience = self.config.training.patience
        if patience is not None and state.validations_without_gain >= patience:
            state.stopped = f"no gain in {patience} validations"
        self.scores = scores
        self.probe = self.look_at_fixed_clips()
        self.progress.validation(
            state, scores=scores, improved=improved, masks=self.fixed["masks"], probe=self.probe
        )

    @torch.no_grad()
    def look_at_fixed_clips(self) -> Probe:
        """The live engine's answer to the fixed clips."""
        batch = move(self.fixed, self.device)
        logits = self.model(batch["frames"], batch["log_mel"])
        return Probe(frames=self.fixed["frames"], log_mel=self.fixed["log_mel"], logits=logits)

    def report(self, state: LoopState) -> None:
        """Hand scores and this worker's shards to Ray Train, which merges all workers' folders."""
        state.elapsed_s = self._elapsed_s()
        with tempfile.TemporaryDirectory(prefix="sdavs-checkpoint-") as folder:
            save_checkpoint(Path(folder), engine=self.engine, state=state, probe=self.probe, rank=self.rank)
            dist.barrier()
            metrics = {f"val_{name}": value for name, value in self.scores.items()}
            ray.train.report(
                metrics | {"epoch": state.epoch, "step": state.step, "stopped": state.stopped},
                checkpoint=ray.train.Checkpoint.from_directory(folder),
            )

    def average_buffers(self) -> None:
        """Running statistics differ between workers; validate, and save, their mean."""
        for buffer in self.engine.module.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= self.world_size

    def _merged(self, metrics: Metrics) -> Metrics:
        states: list[Any] = [None] * self.world_size
        dist.all_gather_object(states, metrics.state())
        merged = self.batches.metrics()
        for state in states:
            merged.merge(state)
        return merged

    def _elapsed_s(self) -> float:
        return self.elapsed_before_s + time.monotonic() - self.started

    def _out_of_time(self) -> bool:
        budget = self.config.training.max_minutes
        return budget is not None and self._elapsed_s() > budget * 60

    def _any(self, flag: bool) -> bool:
        shared = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(shared)
        return bool(shared > 0)


def seed_everything(seed: int, rank: int) -> None:
    """Weights are drawn alike everywhere (DeepSpeed sends the first worker's); dropout differs by worker."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed * 1000 + rank)
