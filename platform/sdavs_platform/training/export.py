"""Any checkpoint of a training, which may still run or have been killed, as an artifact folder."""

import tempfile
from pathlib import Path
from typing import Any

import ray.train
import torch
import yaml

from sdavs_model import SDAVS, SDAVSConfig, build_model, save_artifact
from sdavs_platform.config.cli import validated
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.storage.splits import open_split
from sdavs_platform.tracking.runs import TrainingRun
from sdavs_platform.training.checkpoints.checkpoint import load_probe, load_weights, verify_complete
from sdavs_platform.training.checkpoints.listing import best_checkpoint, checkpoint_address, has_checkpoints
from sdavs_platform.training.engine import CastInputs, compute_dtype

BF16_LEEWAY = 50


def export_from_storage(
    name: str, *, storage: str, uri: str, out: Path, checkpoint: str = "best"
) -> dict[str, Any]:
    """Export one checkpoint of the training `name`, and compare its predictions with the live engine's.

    Args:
        storage: address that the training keeps its checkpoints at.
        uri: MLflow, which knows the training's config.
        out: gets the artifact.
        checkpoint: "best" by validation J, "newest", or a checkpoint's own name.

    Returns:
        What the training reported with the checkpoint: step, epoch, scores.

    Raises:
        ValueError: no such training or checkpoint, or the checkpoint is incomplete; names it.
    """
    if not has_checkpoints(storage, name, field="--storage"):
        raise ValueError(f"--name: no training {name!r} has left checkpoints at {storage}")
    chosen, metrics = _chosen(ray.train.Result.from_path(f"{storage.rstrip('/')}/{name}"), checkpoint)
    config, run_id = _recorded(name, storage=storage, uri=uri)
    address = checkpoint_address(storage, name, chosen.path)
    lineage = {"run_id": run_id, "name": name, "checkpoint": address} | {
        key: metrics[key] for key in ("epoch", "step")
    }
    out.mkdir(parents=True, exist_ok=True)
    export_checkpoint(ray.train.Checkpoint(address), out, config=config, lineage=lineage)
    return metrics


def export_checkpoint(
    checkpoint: ray.train.Checkpoint, folder: Path, *, config: RunConfig, lineage: dict[str, Any]
) -> dict[str, Any]:
    """Consolidate a checkpoint into an artifact folder; returns its lineage with the difference found.

    Raises:
        ValueError: incomplete checkpoint, or weights that predict differently from the live engine.
    """
    with checkpoint.as_directory() as shards:
        model, difference = consolidate(
            Path(shards),
            config=config.model,
            zero_stage=config.deepspeed.zero_stage,
            dtype=compute_dtype(config),
            tolerance=config.training.consolidation_tolerance,
        )
    clips = open_split(config, config.data.val_split).source
    lineage = lineage | {
        "consolidation_difference": difference,
        "data_kind": clips.kind,
        "protocol": f"{clips.protocol}, official",
    }
    save_artifact(folder, model=model, classes=list(clips.classes), metrics={}, lineage=lineage)
    return lineage


def consolidate(
    folder: Path, *, config: SDAVSConfig, zero_stage: int, dtype: torch.dtype, tolerance: float
) -> tuple[SDAVS, float]:
    """One fp32 model out of the shards, whose predictions are compared with the live engine's.

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
    model.load_state_dict(load_weights(folder, zero_stage=zero_stage))
    probe = load_probe(folder)
    judge = build_model(config).eval()
    judge.load_state_dict(model.state_dict())
    with torch.inference_mode():
        logits = CastInputs(judge.to(dtype), dtype)(probe.frames, probe.log_mel)
    difference = float((logits - probe.logits).abs().max() / probe.logits.abs().max().clamp_min(1e-6))
    allowed = tolerance * (BF16_LEEWAY if dtype == torch.bfloat16 else 1)
    if not difference <= allowed:
        raise ValueError(
            f"{folder}: consolidated weights predict differently from the live engine "
            f"(by {difference:.2e} of the largest logit; allowed: {allowed:.0e})"
        )
    return model, difference


def _chosen(trained: ray.train.Result, checkpoint: str) -> tuple[ray.train.Checkpoint, dict[str, Any]]:
    if checkpoint == "best":
        return best_checkpoint(trained)
    if checkpoint == "newest":
        assert trained.checkpoint is not None
        assert trained.metrics is not None
        return trained.checkpoint, trained.metrics
    known = {Path(one.path).name: (one, metrics) for one, metrics in trained.best_checkpoints or ()}
    if checkpoint in known:
        return known[checkpoint]
    names = ", ".join(known)
    raise ValueError(f"--checkpoint: there is no {checkpoint!r}; allowed: best, newest, {names}")


def _recorded(name: str, *, storage: str, uri: str) -> tuple[RunConfig, str]:
    """The training's config as its MLflow run keeps it, and the run's id."""
    run = TrainingRun.find(name, storage=storage, uri=uri)
    if run is None:
        raise ValueError(f"--tracking-uri: {uri} knows no run of {name!r} with checkpoints at {storage}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(run.client.download_artifacts(run.run_id, "config.yaml", folder))
        return validated(yaml.safe_load(file.read_text())), run.run_id
