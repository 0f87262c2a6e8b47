"""Sharded checkpoints: written by every worker, complete or refused, consolidated to one set of weights.

manifest-rank0.json  each worker's files, their sizes and digests
loop.json            where the training loop stands
worker-rank0.pt      what each worker has of its own: random numbers, running statistics, what is not told yet
probe.safetensors    a fixed batch and the live engine's answer to it, to verify the consolidation
shards/              DeepSpeed's own files
"""

import json
import random
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from sdavs_model import SDAVS, SDAVSConfig, build_model
from sdavs_platform.deepspeed_internals import full_state_dict, save_shards
from sdavs_platform.training.checkpoints.manifest import verify_complete, write_manifest
from sdavs_platform.training.checkpoints.reshape import reshape_shards
from sdavs_platform.training.engine import CastInputs
from sdavs_platform.training.telemetry.delivery_queue import Point

TAG = "shards"
BF16_LEEWAY = 50
_SCRATCH = "sdavs-checkpoint-"

Losses = list[dict[str, torch.Tensor]]


@dataclass
class LoopState:
    """Where the training loop stands; the same on all workers."""

    epoch: int = 0
    """Epochs done."""
    batch: int = 0
    """Batches done of the epoch after them."""
    step: int = 0
    """Optimizer steps done."""
    best_miou: float = -1.0
    """Best validation J so far."""
    best_epoch: int = 0
    """Epoch of best_miou."""
    validations_without_gain: int = 0
    """Since best_miou."""
    elapsed_s: float = 0.0
    """Training time in seconds over all restarts."""
    stopped: str | None = None
    """Why training ended before its last epoch."""

    @property
    def epochs_begun(self) -> int:
        """The number of the epoch that is running or was the last to run, counted from 1."""
        return self.epoch + (self.batch > 0)


@dataclass(frozen=True, kw_only=True)
class Untold:
    """What MLflow has not heard yet; differs between workers."""

    losses: Losses = field(default_factory=list)
    """Of the steps since the last metric point."""
    points: list[Point] = field(default_factory=list)
    """Metric points that have not arrived; the first worker's."""


@dataclass(frozen=True)
class Probe:
    """A fixed batch and the live engine's answer."""

    frames: torch.Tensor
    log_mel: torch.Tensor
    logits: torch.Tensor


def scratch_folder(run_id: str) -> Path:
    """A new folder of this machine for a worker's part, from which it is uploaded."""
    return Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{run_id}-"))


def remove_leftovers(run_id: str) -> None:
    """Remove the parts that this training's former workers left here: those killed while they wrote or uploaded.

    For the beginning of a worker group: no other one of this training is left by then, and the new one has not saved.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}{run_id}-*"):
        shutil.rmtree(folder, ignore_errors=True)  # another worker of this machine may be at it


def save_checkpoint(
    folder: Path, *, engine: Any, state: LoopState, untold: Untold, probe: Probe, rank: int
) -> None:
    """Write this worker's part into `folder`; all workers call it together, each with its own folder."""
    save_shards(engine, folder, tag=TAG)
    own = {"random": _random_states(), "buffers": _running_statistics(engine), **vars(untold)}
    torch.save(own, _own_file(folder, rank))
    if rank == 0:
        (folder / "loop.json").write_text(json.dumps(asdict(state), indent=2))
        save_file({k: v.cpu().contiguous() for k, v in asdict(probe).items()}, folder / "probe.safetensors")
    write_manifest(folder, rank=rank, world_size=torch.distributed.get_world_size())


def load_checkpoint(
    folder: Path, *, engine: Any, rank: int, saved_world_size: int
) -> tuple[LoopState, Untold]:
    """Bring the engine, the schedule and all that is this worker's own back; the folder must be complete.

    With as many workers as have written it everything is as it was, to the last bit. With another number the shards
    are cut anew, running statistics become the mean of all workers', and random numbers begin a new sequence.

    Returns:
        Where the loop stands, and what is still to be told.
    """
    world_size = torch.distributed.get_world_size()
    state = LoopState(**json.loads((folder / "loop.json").read_text()))
    if saved_world_size == world_size:
        engine.load_checkpoint(str(folder), tag=TAG)
        own = torch.load(_own_file(folder, rank), weights_only=True)
        _set_running_statistics(engine, own["buffers"])
        _set_random_states(own["random"])
        return state, Untold(losses=own["losses"], points=own["points"])
    with tempfile.TemporaryDirectory(prefix="sdavs-reshaped-") as scratch:
        (Path(scratch) / TAG).mkdir()
        reshape_shards(folder / TAG, Path(scratch) / TAG, rank=rank, world_size=world_size)
        engine.load_checkpoint(scratch, tag=TAG)
    every = [torch.load(_own_file(folder, r), weights_only=True) for r in range(saved_world_size)]
    means = {name: sum(o["buffers"][name] for o in every) / len(every) for name in every[0]["buffers"]}
    _set_running_statistics(engine, means)
    # The mean over the former workers, on each of the present ones, is the same mean.
    losses = [
        {name: torch.stack([part[name] for part in step]).mean(0) for name in step[0]}
        for step in zip(*(o["losses"] for o in every), strict=True)
    ]
    return state, Untold(losses=losses, points=every[0]["points"])


def consolidate(
    folder: Path, *, config: SDAVSConfig, zero_stage: int, dtype: torch.dtype, tolerance: float
) -> tuple[SDAVS, float]:
    """One fp32 model out of the shards, compared with what the live engine answered.

    Args:
        dtype: the engine's number format; the comparison runs in it.
        tolerance: largest allowed difference of logits relative to the largest logit, for fp32.

    Returns:
        The model in eval mode and the difference found.

    Raises:
        ValueError: incomplete checkpoint, or a difference above the tolerance.
    """
    verify_complete(folder)
    config = config.without_weights()  # all weights are in the shards
    model = build_model(config).eval()
    model.load_state_dict(full_state_dict(folder, tag=TAG, zero_stage=zero_stage))
    probe = Probe(**load_file(folder / "probe.safetensors"))
    judge = build_model(config).eval()
    judge.load_state_dict(model.state_dict())
    with torch.inference_mode():
        logits = CastInputs(judge.to(dtype), dtype)(probe.frames, probe.log_mel)
    difference = float((logits - probe.logits).abs().max() / probe.logits.abs().max().clamp_min(1e-6))
    allowed = tolerance * (BF16_LEEWAY if dtype == torch.bfloat16 else 1)
    if not difference <= allowed:
        raise ValueError(
            f"{folder}: consolidated weights answer differently from the live engine "
            f"(by {difference:.2e} of the largest logit; allowed: {allowed:.0e})"
        )
    return model, difference


def _own_file(folder: Path, rank: int) -> Path:
    return folder / f"worker-rank{rank}.pt"


def _running_statistics(engine: Any) -> dict[str, torch.Tensor]:
    """Floating-point buffers: normalisations that see only their worker's clips differ between workers."""
    return {
        name: buffer.cpu() for name, buffer in engine.module.named_buffers() if buffer.is_floating_point()
    }


def _set_running_statistics(engine: Any, saved: dict[str, torch.Tensor]) -> None:
    buffers = dict(engine.module.named_buffers())
    for name, value in saved.items():
        buffers[name].copy_(value)


def _random_states() -> dict[str, Any]:
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # type: ignore[misc]
    states = {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, gauss),
        "cpu": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    keys, *rest = states["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
