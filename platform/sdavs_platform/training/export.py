"""Any checkpoint of a training, which may still run or have been killed, as an artifact folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import torch

from sdavs_model import ModelConfig, SegmentationModel, build_model, save_artifact
from sdavs_model.metrics import ObjectMetrics
from sdavs_model.precision import cast
from sdavs_model.weights.store import describe_weights
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.storage.datasets import open_split
from sdavs_platform.tracking.runs import TrainingRun
from sdavs_platform.training.checkpoints.checkpoint import load_probe, load_weights, verify_complete
from sdavs_platform.training.checkpoints.listing import best_checkpoint, checkpoint_address, has_checkpoints
from sdavs_platform.training.engine import CastInputs, compute_dtype

LEEWAY = {torch.float32: 1, torch.float16: 10, torch.bfloat16: 50}
"""Factor of `training.consolidation_tolerance` by the engine's number format. Our choice: bf16 rounds eight times as
coarsely as fp16."""

MASK_AGREEMENT = 0.99
"""Our choice: pixels that must get the same class. What differs less is the boundary of a mask, where logits are 0."""


def export_from_storage(
    name: str,
    *,
    storage: str,
    uri: str,
    out: Path,
    checkpoint: str = "best",
    tolerance: float | None = None,
) -> dict[str, Any]:
    """Export one checkpoint of the training `name`, and compare its predictions with the live engine's.

    Args:
        storage: address that the training keeps its checkpoints at.
        uri: MLflow, which knows the training's config.
        out: gets the artifact.
        checkpoint: "best" by validation J, "newest", or a checkpoint's own name.
        tolerance: instead of the training's `training.consolidation_tolerance`, for example where a model that was
            trained on GPUs is exported on a machine without.

    Returns:
        What the training reported with the checkpoint: step, epoch, scores.

    Raises:
        ValueError: no such training or checkpoint, or the checkpoint is incomplete; names it.
    """
    if not has_checkpoints(storage, name, field="--storage"):
        raise ValueError(f"--name: there are no checkpoints of a training {name!r} at {storage}")
    run = TrainingRun.find(name, storage=storage, uri=uri)
    if run is None:
        raise ValueError(f"--tracking-uri: {uri} has no run of {name!r} with checkpoints at {storage}")
    config, run_id = run.recorded_config(), run.run_id
    trained = ray.train.Result.from_path(f"{storage.rstrip('/')}/{name}")
    chosen, metrics = _chosen(trained, checkpoint, criterion=config.training.criterion)
    address = checkpoint_address(storage, name, chosen.path)
    lineage = {
        "run_id": run_id,
        "name": name,
        "checkpoint": address,
        "weights": describe_weights(config.model),
    } | {key: metrics[key] for key in ("epoch", "step")}
    if tolerance is not None:
        training = config.training.model_copy(update={"consolidation_tolerance": tolerance})
        config = config.model_copy(update={"training": training})
    out.mkdir(parents=True, exist_ok=True)
    export_checkpoint(ray.train.Checkpoint(address), out, config=config, lineage=lineage)
    return metrics


def export_checkpoint(
    checkpoint: ray.train.Checkpoint, folder: Path, *, config: RunConfig, lineage: dict[str, Any]
) -> dict[str, Any]:
    """Consolidate a checkpoint into an artifact folder; returns its lineage with the differences found.

    The comparison runs on a GPU if the training did and there is one here.

    Raises:
        ValueError: incomplete checkpoint, or weights that predict differently from the live engine.
    """
    with checkpoint.as_directory() as shards:
        model, comparison = consolidate(
            Path(shards),
            config=config.model,
            zero_stage=config.deepspeed.zero_stage,
            dtype=compute_dtype(config),
            tolerance=config.training.consolidation_tolerance,
            device="cuda" if config.cluster.use_gpu and torch.cuda.is_available() else "cpu",
        )
    clips = open_split(config, config.data.val_split).source
    lineage = lineage | {
        "consolidation_difference": comparison.difference,
        "consolidation_agreement": comparison.agreement,
        "data_kind": clips.kind,
        "protocol": f"{clips.protocol}, official",
        **({"videos_per_batch": 1} if clips.protocol == ObjectMetrics.protocol else {}),
    }
    save_artifact(folder, model=model, classes=list(clips.classes), metrics={}, lineage=lineage)
    return lineage


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How the predictions of exported weights differ from the live engine's."""

    difference: float
    """Largest difference of logits, relative to the largest logit."""
    agreement: float
    """Fraction of pixels that get the same class."""


def consolidate(
    folder: Path,
    *,
    config: ModelConfig,
    zero_stage: int,
    dtype: torch.dtype,
    tolerance: float,
    device: str = "cpu",
) -> tuple[SegmentationModel, Comparison]:
    """One fp32 model out of the shards, whose predictions are compared with the live engine's.

    Args:
        dtype: the number format of the comparison where the checkpoint does not record the engine's.
        tolerance: largest allowed difference of logits relative to the largest logit, for fp32.
        device: of the comparison. On another one than the engine's, sums in another order and formats such as TF32
            alone can exceed the default tolerance.

    Returns:
        The model in eval mode, on the CPU, and the differences found.

    Raises:
        ValueError: incomplete checkpoint, a difference above the tolerance, or masks that do not agree.
    """
    verify_complete(folder)
    config = config.without_weights()  # all weights are in the shards
    model = build_model(config).eval()
    model.load_state_dict(load_weights(folder, zero_stage=zero_stage))
    probe = load_probe(folder)
    dtype = probe.dtype or dtype
    judge = build_model(config).eval()
    judge.load_state_dict(model.state_dict())
    with torch.inference_mode():
        cast(judge.to(device), dtype)
        logits = CastInputs(judge, dtype)(probe.frames.to(device), probe.log_mel.to(device)).cpu()
    difference = float((logits - probe.logits).abs().max() / probe.logits.abs().max().clamp_min(1e-6))
    agreement = float((_classes(logits) == _classes(probe.logits)).float().mean())
    allowed = tolerance * LEEWAY[dtype]
    if not difference <= allowed:
        raise ValueError(
            f"{folder}: consolidated weights predict differently from the live engine "
            f"(by {difference:.2e} of the largest logit on {device}; allowed: {allowed:.0e}, which "
            f"training.consolidation_tolerance and `jobs/export.py --tolerance` set)"
        )
    if agreement < MASK_AGREEMENT:
        raise ValueError(
            f"{folder}: masks of the consolidated weights agree with the live engine's in {agreement:.2%} of all "
            f"pixels; allowed: {MASK_AGREEMENT:.0%} or more"
        )
    return model, Comparison(difference=difference, agreement=agreement)


def _classes(logits: torch.Tensor) -> torch.Tensor:
    """[B, T, K, S, S] logits -> [B, T, S, S] classes; K = 1 is binary."""
    return logits[:, :, 0] > 0 if logits.shape[2] == 1 else logits.argmax(2)


def _chosen(
    trained: ray.train.Result, checkpoint: str, *, criterion: str
) -> tuple[ray.train.Checkpoint, dict[str, Any]]:
    if checkpoint == "best":
        return best_checkpoint(trained, criterion=criterion)
    if checkpoint == "newest":
        assert trained.checkpoint is not None
        assert trained.metrics is not None
        return trained.checkpoint, trained.metrics
    known = {Path(one.path).name: (one, metrics) for one, metrics in trained.best_checkpoints or ()}
    if checkpoint in known:
        return known[checkpoint]
    names = ", ".join(known)
    raise ValueError(f"--checkpoint: there is no {checkpoint!r}; allowed: best, newest, {names}")
