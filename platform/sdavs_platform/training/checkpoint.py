"""Sharded checkpoints: written by every worker, complete or refused, consolidated to one set of weights.

manifest-rank0.json  each worker's files and their sizes
loop.json            where the training loop stands
rng-rank0.pt         each worker's random numbers
probe.safetensors    a fixed batch and the live engine's answer to it, to verify the consolidation
shards/              DeepSpeed's own files
"""

import contextlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sdavs_model import SDAVS, SDAVSConfig, build_model
from sdavs_platform.training.engine import CastInputs

TAG = "shards"
BF16_LEEWAY = 50


@dataclass
class LoopState:
    """Where the training loop stands; the same on all workers."""

    epoch: int = 0
    """Epochs done."""
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


@dataclass(frozen=True)
class Probe:
    """A fixed batch and the live engine's answer."""

    frames: torch.Tensor
    log_mel: torch.Tensor
    logits: torch.Tensor


def save_checkpoint(folder: Path, *, engine: Any, state: LoopState, probe: Probe, rank: int) -> None:
    """Write this worker's part into `folder`; all workers call it together, each with its own folder."""
    engine.save_checkpoint(str(folder), tag=TAG)
    (folder / "zero_to_fp32.py").unlink(missing_ok=True)
    torch.save(_random_states(), folder / f"rng-rank{rank}.pt")
    if rank == 0:
        (folder / "loop.json").write_text(json.dumps(asdict(state), indent=2))
        save_file({k: v.cpu().contiguous() for k, v in asdict(probe).items()}, folder / "probe.safetensors")
    sizes = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    manifest = {"world_size": torch.distributed.get_world_size(), "files": sizes}
    (folder / f"manifest-rank{rank}.json").write_text(json.dumps(manifest, indent=2))


def load_checkpoint(folder: Path, *, engine: Any, rank: int, world_size: int) -> LoopState:
    """Bring the engine, the schedule and this worker's random numbers back.

    Raises:
        ValueError: the checkpoint is incomplete (names the file) or of another number of workers.
    """
    saved_world_size = verify_complete(folder)
    if saved_world_size != world_size:
        raise ValueError(
            f"{folder}: written by {saved_world_size} workers; set cluster.num_workers to that to resume"
        )
    engine.load_checkpoint(str(folder), tag=TAG)
    _set_random_states(torch.load(folder / f"rng-rank{rank}.pt", weights_only=True))
    return LoopState(**json.loads((folder / "loop.json").read_text()))


def verify_complete(folder: Path) -> int:
    """Compare the files with the manifests of all workers; returns their number.

    Raises:
        ValueError: a manifest or file is missing or has another size; names it.
    """
    first = folder / "manifest-rank0.json"
    if not first.is_file():
        raise ValueError(f"{first}: missing; the checkpoint is incomplete")
    world_size = json.loads(first.read_text())["world_size"]
    for rank in range(world_size):
        manifest = folder / f"manifest-rank{rank}.json"
        if not manifest.is_file():
            raise ValueError(f"{manifest}: missing; the checkpoint is incomplete")
        for name, size in json.loads(manifest.read_text())["files"].items():
            file = folder / name
            found = file.stat().st_size if file.is_file() else None
            if found != size:
                is_now = "missing" if found is None else f"{found} bytes"
                raise ValueError(f"{file}: {is_now}, but {size} bytes were written; incomplete checkpoint")
    return world_size


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
    model = build_model(config).eval()
    model.load_state_dict(_full_state(folder, zero_stage))
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


def _full_state(folder: Path, zero_stage: int) -> dict[str, torch.Tensor]:
    if zero_stage == 0:
        shard = folder / TAG / "mp_rank_00_model_states.pt"
        module = torch.load(shard, map_location="cpu", weights_only=False)["module"]
        return {name: tensor.float() for name, tensor in module.items()}
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=TAG)


def _random_states() -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
