"""Any checkpoint of a training, which may still run or have been killed, as an artifact folder."""

import tempfile
from pathlib import Path
from typing import Any

import ray.train
import yaml

from sdavs_platform.config.cli import validated
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.tracking.runs import TrainingRun
from sdavs_platform.training.checkpoints.listing import best_checkpoint, checkpoint_address, has_checkpoints
from sdavs_platform.training.finish import export_checkpoint


def export_from_storage(
    name: str, *, storage: str, uri: str, out: Path, checkpoint: str = "best"
) -> dict[str, Any]:
    """Consolidate one checkpoint of the training `name` and compare its answer with the live engine's.

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
