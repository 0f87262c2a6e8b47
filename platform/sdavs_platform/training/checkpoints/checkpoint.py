"""Sharded checkpoints: written by every worker, complete or refused.

manifest-rank0.json       each worker's files, their sizes and digests
loop.json                 the state of the training loop
worker-rank0.safetensors  what differs between workers: random numbers, running statistics, metrics not sent yet
averaged.safetensors      the average of the weights, where `training.ema` is on
probe.safetensors         a fixed batch and the live engine's prediction of it, to verify the exported weights
shards/                   DeepSpeed's states

No file is a pickle. Earlier versions' checkpoints have .pt files, which are read with `weights_only=True`.
"""

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sdavs_model.files import sha256_of
from sdavs_platform.deepspeed_internals import load_shards, save_shards
from sdavs_platform.state_files import read_state, write_state
from sdavs_platform.tracking.runs import Point
from sdavs_platform.training.checkpoints.reshape import full_state_dict, reshape_shards
from sdavs_platform.training.faults.spikes import UsualLoss

TAG = "shards"
FORMAT = 3
"""Format of the manifests that are written."""
_READ_FORMATS = (2, FORMAT)
"""Format 2 had pickles instead of safetensors."""

_SCRATCH = "sdavs-checkpoint-"
_AVERAGED = "averaged.safetensors"

Losses = list[dict[str, torch.Tensor]]
"""One dictionary per step: loss part -> scalar."""


@dataclass
class LoopState:
    """Progress of the training loop; the same on all workers."""

    epoch: int = 0
    """Epochs done."""
    batch: int = 0
    """Batches done of the epoch after them."""
    step: int = 0
    """Optimizer steps done."""
    best_score: float = -1.0
    """Best validation score so far, as chosen by `training.select_by`."""
    best_epoch: int = 0
    """Epoch of best_score."""
    validations_without_gain: int = 0
    """Since best_score."""
    skipped: int = 0
    """Steps whose gradients were not finite, or whose loss was a spike."""
    skipped_in_row: int = 0
    """Consecutive skipped steps up to now."""
    usual_loss: UsualLoss = field(default_factory=UsualLoss)
    """The losses so far, for `training.spike_factor`."""
    elapsed_s: float = 0.0
    """Training time in seconds over all restarts."""
    time_fraction: float = 0.0
    """Used fraction of `training.max_minutes`, as the workers last agreed on it; 0 without a limit."""
    stopped: str | None = None
    """Why training ended before its last epoch."""

    @classmethod
    def from_json(cls, text: str) -> "LoopState":
        """The inverse of `json.dumps(asdict(state))`; reads the states of earlier versions, too."""
        values = json.loads(text)
        if "best_miou" in values:  # before training.select_by
            values["best_score"] = values.pop("best_miou")
        return cls(**values | {"usual_loss": UsualLoss(**values.get("usual_loss", {}))})

    @property
    def epochs_begun(self) -> int:
        """The number of the epoch that is running or was the last to run, counted from 1."""
        return self.epoch + (self.batch > 0)

    def count_step(self, *, is_applied: bool) -> None:
        """One more step, whose gradients were finite or were skipped."""
        self.step, self.batch = self.step + 1, self.batch + 1
        self.skipped += not is_applied
        self.skipped_in_row = 0 if is_applied else self.skipped_in_row + 1

    def count_validation(self, score: float, *, patience: int | None) -> bool:
        """Keep the best score, and stop after `patience` validations without a better; returns whether this is it."""
        improved = score > self.best_score
        self.validations_without_gain = 0 if improved else self.validations_without_gain + 1
        if improved:
            self.best_score, self.best_epoch = score, self.epochs_begun
        if patience is not None and self.validations_without_gain >= patience:
            self.stopped = f"no gain in {patience} validations"
        return improved


@dataclass(frozen=True, kw_only=True)
class UnsentMetrics:
    """Metrics that have not reached MLflow yet; they differ between workers."""

    losses: Losses = field(default_factory=list)
    """Losses of the steps since the last metric point."""
    points: list[Point] = field(default_factory=list)
    """Metric points that have not arrived; the first worker's."""


@dataclass(frozen=True)
class Probe:
    """A fixed batch and the live engine's prediction of it."""

    frames: torch.Tensor
    log_mel: torch.Tensor
    logits: torch.Tensor
    dtype: torch.dtype | None = None
    """The engine's number format; None in checkpoints of earlier versions."""


def scratch_folder(run_id: str) -> Path:
    """A new local folder for a worker's part, from which it is uploaded."""
    return Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{run_id}-"))


def remove_leftovers(run_id: str) -> None:
    """Remove the parts that this training's former workers left here: those killed while they wrote or uploaded.

    For the beginning of a worker group: no other one of this training is left by then, and the new one has not saved.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}{run_id}-*"):
        shutil.rmtree(folder, ignore_errors=True)  # another worker of this machine may be at it


def save_checkpoint(
    folder: Path,
    *,
    engine: Any,
    state: LoopState,
    unsent: UnsentMetrics,
    probe: Probe,
    rank: int,
    averaged: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write this worker's part into `folder`; all workers call it together, each with its own folder.

    Args:
        averaged: the average of the weights, by parameter, for export; None without.
    """
    save_shards(engine, folder, tag=TAG)
    # On the CPU, because a later group may have other devices or none.
    own = {
        "random": _random_states(),
        "buffers": _running_statistics(engine),
        "losses": [{name: value.cpu() for name, value in step.items()} for step in unsent.losses],
        "points": unsent.points,
    }
    write_state(own, _own_file(folder, rank))
    if rank == 0:
        (folder / "loop.json").write_text(json.dumps(asdict(state), indent=2))
        _save_probe(probe, folder / "probe.safetensors")
        if averaged is not None:
            save_file({k: v.cpu().contiguous() for k, v in averaged.items()}, folder / _AVERAGED)
    write_manifest(folder, rank=rank, world_size=torch.distributed.get_world_size())


def load_checkpoint(
    folder: Path, *, engine: Any, rank: int, saved_world_size: int
) -> tuple[LoopState, UnsentMetrics]:
    """Restore the engine, the schedule and this worker's own state; the folder must be complete.

    With the same number of workers everything is restored bit for bit. With another number the shards are resharded,
    running statistics become the mean over all workers, and random numbers begin a new sequence.

    Returns:
        The state of the loop, and the metrics still to be sent.
    """
    world_size = torch.distributed.get_world_size()
    state = LoopState.from_json((folder / "loop.json").read_text())
    if saved_world_size == world_size:
        load_shards(engine, folder, tag=TAG)
        own = _load_own(folder, rank, device=engine.device)
        _set_running_statistics(engine, own["buffers"])
        _set_random_states(own["random"])
        return state, UnsentMetrics(losses=own["losses"], points=own["points"])
    with tempfile.TemporaryDirectory(prefix="sdavs-reshaped-") as scratch:
        (Path(scratch) / TAG).mkdir()
        reshape_shards(folder / TAG, Path(scratch) / TAG, rank=rank, world_size=world_size)
        load_shards(engine, Path(scratch), tag=TAG)
    every = [_load_own(folder, r, device=engine.device) for r in range(saved_world_size)]
    means = {name: sum(o["buffers"][name] for o in every) / len(every) for name in every[0]["buffers"]}
    _set_running_statistics(engine, means)
    # The mean over the former workers, on each of the present ones, is the same mean.
    losses = [
        {name: torch.stack([part[name] for part in step]).mean(0) for name in step[0]}
        for step in zip(*(o["losses"] for o in every), strict=True)
    ]
    return state, UnsentMetrics(losses=losses, points=every[0]["points"])


def load_weights(folder: Path, *, zero_stage: int) -> dict[str, torch.Tensor]:
    """The whole model in fp32 out of all workers' shards; the folder must be complete. Where an average of the weights
    was kept, the model has the averaged weights."""
    weights = full_state_dict(folder / TAG, zero_stage=zero_stage)
    if (folder / _AVERAGED).is_file():
        weights |= load_file(folder / _AVERAGED)
    return weights


def load_probe(folder: Path) -> Probe:
    """The live engine's prediction when the checkpoint was written."""
    with safe_open(folder / "probe.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        dtype = (file.metadata() or {}).get("dtype")
    return Probe(**tensors, dtype=None if dtype is None else getattr(torch, dtype))


def _save_probe(probe: Probe, file: Path) -> None:
    tensors = {"frames": probe.frames, "log_mel": probe.log_mel, "logits": probe.logits}
    metadata = None if probe.dtype is None else {"dtype": str(probe.dtype).removeprefix("torch.")}
    save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, file, metadata=metadata)


def write_manifest(folder: Path, *, rank: int, world_size: int) -> None:
    """List this worker's files with sizes and digests. The last file it writes: without it nothing counts."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {"format": FORMAT, "world_size": world_size, "files": files}
    _manifest_file(folder, rank).write_text(json.dumps(manifest, indent=2))


def verify_complete(folder: Path, *, is_read: Callable[[int], bool] = lambda rank: True) -> int:
    """Compare the files with the manifests of all workers; returns their number.

    Args:
        is_read: by worker, whether its files are also read and compared with their digests.

    Raises:
        ValueError: a manifest or file is missing, has another size or another content; names it.
    """
    world_size: int = _manifest(folder, 0)["world_size"]
    for rank in range(world_size):
        for name, written in _manifest(folder, rank)["files"].items():
            file = folder / name
            found = file.stat().st_size if file.is_file() else None
            if found != written["bytes"]:
                is_now = "missing" if found is None else f"{found} bytes"
                raise ValueError(
                    f"{file}: {is_now}, but {written['bytes']} bytes were written; incomplete checkpoint"
                )
            if is_read(rank) and sha256_of(file) != written["sha256"]:
                raise ValueError(f"{file}: differs from what was written; damaged checkpoint")
    return world_size


def _manifest(folder: Path, rank: int) -> dict[str, Any]:
    path = _manifest_file(folder, rank)
    if not path.is_file():
        raise ValueError(f"{path}: missing; the checkpoint is incomplete")
    manifest = json.loads(path.read_text())
    if manifest.get("format") not in _READ_FORMATS:
        raise ValueError(f"{path}: written by another version of this program; choose another --name")
    return manifest


def _manifest_file(folder: Path, rank: int) -> Path:
    return folder / f"manifest-rank{rank}.json"


def _own_file(folder: Path, rank: int) -> Path:
    return folder / f"worker-rank{rank}.safetensors"


def _load_own(folder: Path, rank: int, *, device: torch.device) -> dict[str, Any]:
    """A worker's own state, wherever it was written; its losses where those of the next steps are."""
    file = _own_file(folder, rank)
    if file.is_file():
        own = read_state(file)
    else:
        own = torch.load(file.with_suffix(".pt"), map_location="cpu", weights_only=True)
    own["losses"] = [{name: value.to(device) for name, value in step.items()} for step in own["losses"]]
    return own


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
