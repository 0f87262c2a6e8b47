"""What every training worker does, on one page. Ray Train starts it; DeepSpeed joins the workers."""

import logging
import random
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
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.deepspeed_internals import loss_scale
from sdavs_platform.training.batches import Batches
from sdavs_platform.training.checkpoints.checkpoint import (
    LoopState,
    Probe,
    Untold,
    remove_leftovers,
    save_checkpoint,
    scratch_folder,
)
from sdavs_platform.training.checkpoints.listing import UNSCORED, await_checkpoint
from sdavs_platform.training.checkpoints.resume import resume
from sdavs_platform.training.engine import CastInputs, build_engine, compute_dtype
from sdavs_platform.training.faults.notices import Notices
from sdavs_platform.training.faults.watchdog import Watchdog
from sdavs_platform.training.telemetry.phase_timers import StepTimes, gpu_readings
from sdavs_platform.training.telemetry.profiling import StepProfiler
from sdavs_platform.training.telemetry.progress import Progress, means


def train_worker(settings: dict[str, Any]) -> None:
    """Train until the epochs, the time budget or the patience are used up.

    Args:
        settings: `config` (RunConfig as plain values), `tracking_uri`, `run_id`, `stop_key` (see `StopRequest`), and
            `start_from` (None or the checkpoint of another training).

    Raises:
        ValueError: a file of the data set cannot be read; names it.
        FloatingPointError: the loss is not finite; names the step and the clips.
        StoppedError, PreemptedError: this group should end; all is saved. See `notices`.
    """
    worker = Worker(settings)
    state = worker.resume()
    while not worker.is_done(state):
        worker.train_epoch(state)
        if worker.validates_after(state):
            worker.validate(state)
        elif worker.saves_at(state):
            worker.save(state)
    worker.watchdog.close()
    worker.progress.close()


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
        self.total_steps = self.batches.sampler.num_batches * config.training.epochs
        self.times = StepTimes(use_gpu=config.cluster.use_gpu)
        self.engine = build_engine(
            config, build_model(config.model), total_steps=self.total_steps, world_size=self.world_size
        )
        self.device = self.engine.device
        self.model = CastInputs(self.engine, compute_dtype(config))
        self.fixed = self.batches.fixed_batch()
        self.settings = settings
        self.uploading: Path | None = None
        self.notices = Notices(stop_key=settings["stop_key"], rank=self.rank)
        self.watchdog = Watchdog(
            seconds=config.training.hang_seconds,
            rank=self.rank,
            world_size=self.world_size,
            storage=f"{config.storage.uri}/{config.name}",
            uri=settings["tracking_uri"],
            run_id=settings["run_id"],
        )
        self.profiler = StepProfiler(
            config, rank=self.rank, uri=settings["tracking_uri"], run_id=settings["run_id"]
        )

    def say(self, line: str) -> None:
        """One line in the job's log, from the first worker."""
        if self.rank == 0:
            print(line, flush=True)

    def resume(self) -> LoopState:
        """Continue from the newest whole checkpoint of this name, else from another training's, if there is one."""
        remove_leftovers(self.settings["run_id"])
        found = resume(self.engine, start_from=self.settings["start_from"], say=self.say)
        state, untold = found or (LoopState(), Untold())
        self.losses = untold.losses
        self.elapsed_before_s = state.elapsed_s
        self.progress = Progress(
            self.config,
            uri=self.settings["tracking_uri"],
            run_id=self.settings["run_id"],
            speaks=self.rank == 0,
            state=state,
            untold=untold.points,
            total_steps=self.total_steps,
        )
        if state.stopped and state.stopped.startswith("time") and not self._any(self._out_of_time()):
            # The budget was raised. All workers ask together, and only here: their clocks differ by an instant.
            state.stopped = None
        where = f"resuming after step {state.step}" if state.step else "starting"
        self.say(
            f"{self.config.name}: {where} | {len(self.batches.clips)} clips, {len(self.batches.val_clips)} to "
            f"validate | {self.world_size} workers, ZeRO-{self.config.deepspeed.zero_stage}, "
            f"{sum(p.numel() for p in self.engine.module.parameters()) / 1e6:.1f} M weights"
        )
        self.watchdog.beat()
        return state

    def is_done(self, state: LoopState) -> bool:
        """All epochs done, or stopped early."""
        return state.stopped is not None or state.epoch >= self.config.training.epochs

    def train_epoch(self, state: LoopState) -> None:
        """What is left of the epoch, or less if time runs out."""
        self.model.train()
        batches = self.batches.epoch(state.epoch, first_batch=state.batch)
        for batch in self.times.loading(batches):
            with self.profiler.around(state.step + 1):
                self.losses.append(self.train_step(batch, state))
            if state.step % self.config.training.log_every == 0:
                self.log_step(state)
                if state.stopped:
                    return
            notice = self.notices.agreed()
            if notice or (self.saves_at(state) and state.batch < self.batches.sampler.num_batches):
                self.save(state)
            if notice:
                await_checkpoint()
                raise notice
        state.epoch, state.batch = state.epoch + 1, 0

    def train_step(self, batch: dict[str, Any], state: LoopState) -> dict[str, torch.Tensor]:
        """Forward, backward, update; DeepSpeed reduces, clips and steps the schedule."""
        self.watchdog.beat()
        self.notices.begin()
        try:
            with self.times.part("forward"):
                losses = training_loss(self.model, move(batch, self.device))
        except FloatingPointError as error:
            raise FloatingPointError(f"step {state.step + 1}: {error}") from None
        losses = {name: value * self.batches.weight for name, value in losses.items()}
        with self.times.part("backward"):
            self.engine.backward(losses["loss"])
        with self.times.part("optimizer"):
            self.engine.step()
        state.step, state.batch = state.step + 1, state.batch + 1
        return {name: value.detach() for name, value in losses.items()}

    def log_step(self, state: LoopState) -> None:
        """Means since the last line; here the workers also agree on whether time is up."""
        losses = means(self.losses)
        self.losses = []
        state.elapsed_s = self._elapsed_s()
        if self._any(self._out_of_time()):
            state.stopped = f"time budget of {self.config.training.max_minutes:g} minutes used"
        norm = self.engine.get_global_grad_norm()
        readings = {
            "train/lr": max(self.engine.get_lr()),
            "train/grad_norm": float(norm) if norm is not None else 0.0,
            "train/loss_scale": loss_scale(self.engine),
        }
        readings |= self.times.means()
        if self.config.cluster.use_gpu:
            readings |= gpu_readings()
        self.progress.step(state, losses=losses, readings=readings)

    def validates_after(self, state: LoopState) -> bool:
        """Every `val_every` epochs and at the end."""
        return state.epoch % self.config.training.val_every == 0 or self.is_done(state)

    def saves_at(self, state: LoopState) -> bool:
        """Every `checkpoint_every` steps."""
        every = self.config.training.checkpoint_every
        return every is not None and state.step % every == 0

    def save(self, state: LoopState) -> None:
        """A checkpoint between validations."""
        self.model.eval()
        probe = self.look_at_fixed_clips()
        self.model.train()
        self.progress.send()
        self.report(state, {"miou": UNSCORED}, probe)

    def validate(self, state: LoopState) -> None:
        """Score the validation split, shared over the workers; keep count of gains for early stopping; save."""
        self.average_buffers()
        share = self.batches.validation()
        metrics = evaluate(
            self.model, self.watchdog.beating(share), device=self.device, metrics=self.batches.metrics()
        )
        if len(share) < self.batches.num_val_batches:
            # ZeRO-3 gathers weights in every forward pass: all workers must make equally many.
            self.look_at_fixed_clips()
        scores = self._merged(metrics).compute()
        improved = scores["miou"] > state.best_miou
        state.validations_without_gain = 0 if improved else state.validations_without_gain + 1
        if improved:
            state.best_miou, state.best_epoch = scores["miou"], state.epochs_begun
        patience = self.config.training.patience
        if patience is not None and state.validations_without_gain >= patience:
            state.stopped = f"no gain in {patience} validations"
        probe = self.look_at_fixed_clips()
        self.progress.validation(
            state, scores=scores, improved=improved, masks=self.fixed["masks"], probe=probe
        )
        self.report(state, scores, probe)

    @torch.no_grad()
    def look_at_fixed_clips(self) -> Probe:
        """The live engine's answer to the fixed clips."""
        batch = move(self.fixed, self.device)
        logits = self.model(batch["frames"], batch["log_mel"])
        return Probe(frames=self.fixed["frames"], log_mel=self.fixed["log_mel"], logits=logits)

    def report(self, state: LoopState, scores: dict[str, float], probe: Probe) -> None:
        """Hand scores and this worker's shards to Ray Train, which uploads and merges all workers' folders.

        Training goes on meanwhile. A checkpoint counts from the moment when all workers' parts have arrived.
        """
        state.elapsed_s = self._elapsed_s()
        # One at a time, or slow storage would fill the disk here.
        while self.uploading and self.uploading.exists():
            self.watchdog.beat()
            time.sleep(0.1)
        untold = Untold(losses=self.losses, points=self.progress.untold())
        self.uploading = scratch_folder(self.settings["run_id"])
        with self.times.checkpoint():
            save_checkpoint(
                self.uploading, engine=self.engine, state=state, untold=untold, probe=probe, rank=self.rank
            )
            dist.barrier()
        metrics = {f"val_{name}": value for name, value in scores.items()}
        ray.train.report(
            metrics | {"epoch": state.epochs_begun, "step": state.step, "stopped": state.stopped},
            checkpoint=ray.train.Checkpoint.from_directory(self.uploading),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
        )

    def average_buffers(self) -> None:
        """Batch norms inside a backbone (ResNets) see one worker's share; validate, and save, the mean of all."""
        for buffer in self.engine.module.trained_buffers():
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
