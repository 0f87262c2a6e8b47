"""The training loop of a worker, on one page. Ray Train starts the workers; DeepSpeed synchronises them."""

import contextlib
import copy
import logging
import math
import random
import time
from typing import Any

import numpy as np
import ray.train
import torch

from sdavs_model import SegmentationModel, build_model
from sdavs_model.cpu_memory import keep_freed_memory
from sdavs_platform import console
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.deepspeed_internals import apply_gradients, log_only, loss_scale
from sdavs_platform.training.averaging import averaged
from sdavs_platform.training.batches import Batches
from sdavs_platform.training.checkpoints.checkpoint import LoopState, Losses, UnsentMetrics, remove_leftovers
from sdavs_platform.training.checkpoints.listing import UNSCORED, await_checkpoint, own_checkpoints
from sdavs_platform.training.checkpoints.reporter import CheckpointReporter
from sdavs_platform.training.checkpoints.resume import resume
from sdavs_platform.training.engine import (
    CastInputs,
    build_engine,
    compute_dtype,
    step_losses,
    with_agreed_precision,
)
from sdavs_platform.training.faults.notices import Notices, SupersededError
from sdavs_platform.training.faults.spikes import SpikeGuard
from sdavs_platform.training.faults.watchdog import Watchdog
from sdavs_platform.training.fine_tuning import freeze_parts, load_start
from sdavs_platform.training.pace import Clock, Pace
from sdavs_platform.training.shared_files import with_files_here
from sdavs_platform.training.telemetry.phase_timers import StepTimes, gpu_readings
from sdavs_platform.training.telemetry.profiling import StepProfiler
from sdavs_platform.training.telemetry.progress import Progress, means
from sdavs_platform.training.telemetry.system_metrics import watch_node
from sdavs_platform.training.validator import Validator

logger = logging.getLogger(__name__)


def train_worker(settings: dict[str, Any]) -> None:
    """Train until the epochs, the time budget or the patience are used up.

    Args:
        settings: `config` (RunConfig as plain values), `tracking_uri`, `run_id`, `stop_key` (see `StopRequest`), and
            `start_from` (None or the checkpoint of another training), `shared_files` (see `share_files`).

    Raises:
        ValueError: a file of the data set cannot be read; names it.
        FloatingPointError: the loss is not finite, or the gradients too often; names the step.
        StoppedError, PreemptedError: this group should end; all is saved. See `notices`.
        SupersededError: another command trains under this name.
    """
    worker = Worker(settings)
    try:
        while not worker.is_done:
            worker.train_epoch()
            if worker.validation_is_due:
                worker.validate()
            elif worker.checkpoint_is_due:
                worker.save()
    finally:
        worker.watchdog.close()
    worker.close()


class Worker:
    """One of the training processes: its model, its data, and its rank among the others."""

    def __init__(self, settings: dict[str, Any]) -> None:
        started = time.monotonic()
        config = with_files_here(RunConfig.model_validate(settings["config"]), settings["shared_files"])
        config = self.config = with_agreed_precision(config)
        context = ray.train.get_context()
        rank, world_size = context.get_world_rank(), context.get_world_size()
        uri, run_id = settings["tracking_uri"], settings["run_id"]
        configure_logging(rank)
        torch.set_num_threads(config.cluster.cpus_per_worker)
        keep_freed_memory()
        seed_everything(config.seed, rank)

        self.batches = Batches(config, rank=rank, world_size=world_size)
        self.total_steps = self.batches.sampler.num_batches * config.training.epochs
        self.times = StepTimes(
            use_gpu=bool(config.cluster.use_gpu), watches_collectives=config.training.profile is not None
        )
        # A checkpoint has all weights, frozen ones and banks among them.
        has_checkpoint = bool(own_checkpoints()) or settings["start_from"] is not None
        starts_anew = not has_checkpoint and config.start.source is None
        model = build_initial(config) if starts_anew else build_model(config.model.without_weights())
        if config.start.source is not None and not has_checkpoint:
            load_start(model, config)
        freeze_parts(model, config.training.freeze)
        whole = copy.deepcopy(model) if config.deepspeed.zero_stage == 3 else None
        self.pace = Pace(self.total_steps)
        self.engine = build_engine(config, model, pace=self.pace, world_size=world_size)
        self.model = CastInputs(self.engine, compute_dtype(config))
        self.notices = Notices(stop_key=settings["stop_key"], rank=rank)
        self.watchdog = Watchdog(
            seconds=config.training.hang_limit,
            rank=rank,
            world_size=world_size,
            storage=f"{config.storage.uri}/{config.name}",
            uri=uri,
            run_id=run_id,
        )
        sampling = config.tracking.system_metrics_seconds
        if sampling is not None and context.get_local_rank() == 0:
            watch_node(uri=uri, run_id=run_id, node_rank=context.get_node_rank(), seconds=sampling)
        self.profiler = StepProfiler(config, rank=rank, uri=uri, run_id=run_id)
        self.validator = Validator(
            self.engine, self.model, batches=self.batches, watchdog=self.watchdog, whole=whole
        )
        self.reporter = CheckpointReporter(
            self.engine, rank=rank, run_id=run_id, times=self.times, beat=self.watchdog.beat
        )

        remove_leftovers(run_id)
        found = resume(self.engine, start_from=settings["start_from"])
        self.state, unsent = found or (LoopState(), UnsentMetrics())
        self.pace.time_fraction = self.state.time_fraction
        self.losses: Losses = unsent.losses
        self.names: list[list[str]] = []  # the clips of the last of these
        self.grad_norm = 0.0
        self.spikes = SpikeGuard(
            config.training.spike_factor, usual=self.state.usual_loss, device=self.engine.device
        )
        self.clock = Clock(
            started=started, before_s=self.state.elapsed_s, max_minutes=config.training.max_minutes
        )
        self.progress = Progress(
            config,
            uri=uri,
            run_id=run_id,
            is_sender=rank == 0,
            state=self.state,
            unsent=unsent.points,
            total_steps=self.total_steps,
        )
        if self.state.stopped and self.state.stopped.startswith("time") and not self._time_is_up():
            self.state.stopped = None  # the budget was raised
        self._log_start(world_size)
        self.watchdog.beat()

    @property
    def is_done(self) -> bool:
        """All epochs done, or stopped early."""
        return self.state.stopped is not None or self.state.epoch >= self.config.training.epochs

    @property
    def validation_is_due(self) -> bool:
        """Every `val_every` epochs and at the end."""
        return self.state.epoch % self.config.training.val_every == 0 or self.is_done

    @property
    def checkpoint_is_due(self) -> bool:
        """Every `checkpoint_every` steps."""
        every = self.config.training.checkpoint_every
        return every is not None and self.state.step % every == 0

    def train_epoch(self) -> None:
        """Train the rest of the epoch, or less if time runs out."""
        state = self.state
        self.model.train()
        batches = self.batches.epoch(state.epoch, first_batch=state.batch)
        for batch in self.times.loading(batches):
            with self.profiler.around(state.step + 1):
                self.losses.append(self.train_step(batch))
            if state.step % self.config.training.log_every == 0:
                self.log_step()
                if state.stopped:
                    return
            notice = self.notices.agreed()
            if isinstance(notice, SupersededError):
                raise notice
            if notice or (self.checkpoint_is_due and state.batch < self.batches.sampler.num_batches):
                self.save()
            if notice:
                await_checkpoint()
                raise notice
        state.epoch, state.batch = state.epoch + 1, 0

    def train_step(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Forward, backward, update; DeepSpeed reduces, clips and steps the schedule."""
        self.watchdog.beat()
        self.notices.begin()
        with self.times.part("forward"):
            losses = step_losses(self.engine, batch, config=self.config)
        with self.times.part("backward"):
            self.engine.backward(self.spikes.guarded(losses["loss"]))
        with self.times.part("optimizer"):
            is_applied, self.grad_norm = apply_gradients(self.engine)
        self.state.count_step(is_applied=is_applied)
        if not is_applied:
            self._check_skipped()
        self.names.append(batch["name"])
        return {name: value.detach() for name, value in losses.items()}

    def log_step(self) -> None:
        """Means since the last line; here the workers also agree on whether time is up."""
        self._require_finite_losses()
        losses = means(self.losses)
        self.losses, self.names = [], []
        self.state.elapsed_s = self.clock.elapsed_s
        if self._time_is_up():
            self.state.stopped = f"time budget of {self.config.training.max_minutes:g} minutes used"
        readings = {
            "train/lr": max(self.engine.get_lr()),
            "train/loss_scale": loss_scale(self.engine),
            "train/skipped_steps": float(self.state.skipped),
        }
        if math.isfinite(self.grad_norm):
            readings["train/grad_norm"] = self.grad_norm
        readings |= self.times.means()
        if self.config.cluster.use_gpu:
            readings |= gpu_readings()
        self.progress.step(self.state, losses=losses, readings=readings)

    def save(self) -> None:
        """A checkpoint between validations."""
        self._require_finite_losses()
        with self._averaged() as averaged:
            probe = self.validator.predict_fixed_clips()
        self.progress.send()
        self._report({"miou": UNSCORED, self.config.training.criterion: UNSCORED}, probe, averaged)

    def validate(self) -> None:
        """Score the validation split, decide whether to stop early, save."""
        self._require_finite_losses()
        with self._averaged() as averaged:
            scores = self.validator.score()
            probe = self.validator.predict_fixed_clips()
        improved = self.state.count_validation(
            scores[self.config.training.criterion], patience=self.config.training.patience
        )
        self.progress.validation(
            self.state, scores=scores, improved=improved, masks=self.validator.fixed["masks"], probe=probe
        )
        self._report(scores, probe, averaged)

    def close(self) -> None:
        """Deliver what MLflow does not have yet."""
        self.progress.close()

    def _check_skipped(self) -> None:
        step, in_row = self.state.step, self.state.skipped_in_row
        why = "the loss is a spike" if self.spikes.found_spike() else "the gradients are not finite"
        logger.info("step %d: %s; the weights stay as they are", step, why)
        if in_row > self.config.training.max_skipped:
            raise FloatingPointError(
                f"step {step}: {why}, and {in_row} steps in a row were skipped; "
                f"training.max_skipped allows {self.config.training.max_skipped}"
            )

    def _averaged(self) -> contextlib.AbstractContextManager[dict[str, torch.Tensor] | None]:
        """Context manager in which the model has the weights to score and export: the average with `training.ema`."""
        return contextlib.nullcontext() if self.config.training.ema is None else averaged(self.engine)

    def _require_finite_losses(self) -> None:
        """Look at the losses of the last steps all at once: at each step the GPU would have to be waited for."""
        recent = self.losses[len(self.losses) - len(self.names) :]
        values = torch.stack([each["loss"] for each in recent]).tolist() if recent else []
        for index, value in enumerate(values):
            if not math.isfinite(value):
                step = self.state.step - len(values) + index + 1
                clips = ", ".join(self.names[index])
                raise FloatingPointError(f"step {step}: the loss is {value} on clips {clips}")

    def _report(self, scores: dict[str, float], probe: Any, averaged: dict[str, torch.Tensor] | None) -> None:
        self.state.elapsed_s = self.clock.elapsed_s
        self.state.usual_loss = self.spikes.usual()
        unsent = UnsentMetrics(losses=self.losses, points=self.progress.unsent())
        self.reporter.report(self.state, scores=scores, probe=probe, unsent=unsent, averaged=averaged)

    def _time_is_up(self) -> bool:
        """Whether the time limit is reached; all workers call this together."""
        is_up = self.pace.agree(self.clock, device=self.engine.device)
        self.state.time_fraction = self.pace.time_fraction
        return is_up

    def _log_start(self, world_size: int) -> None:
        start = f"resuming after step {self.state.step}" if self.state.step else "starting"
        logger.info(
            "%s: %s | %d clips, %d to validate | %d workers, ZeRO-%d, %.1f M weights",
            self.config.name,
            start,
            len(self.batches.clips),
            len(self.batches.val_clips),
            world_size,
            self.config.deepspeed.zero_stage,
            sum(p.numel() for p in self.engine.module.parameters()) / 1e6,
        )


def build_initial(config: RunConfig) -> SegmentationModel:
    """The model of a new training, with its pretrained weights.

    Raises:
        ConnectionError: timm's hub is away. The driver has reached it, so it is worth another attempt.
    """
    try:
        return build_model(config.model)
    except ValueError as error:
        if str(error).startswith("pretrained:"):
            raise ConnectionError(str(error)) from error
        raise


def configure_logging(rank: int) -> None:
    """The first worker logs for all; the others log only warnings and errors. The same holds for DeepSpeed."""
    console.configure()
    if rank:
        logging.getLogger("sdavs_platform").setLevel(logging.WARNING)
    # `ray.train.LoggingConfig` does not hold back what it logs of every checkpoint.
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    log_only(logging.WARNING)


def seed_everything(seed: int, rank: int) -> None:
    """Weights are drawn alike everywhere (DeepSpeed sends the first worker's); dropout differs by worker."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed * 1000 + rank)
