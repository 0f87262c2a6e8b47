"""After the last epoch: the best checkpoint becomes a verified, scored, registered artifact."""

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray.train
import torch

from sdavs_model import SegmentationModel, load_artifact, save_artifact
from sdavs_model.cpu_memory import keep_freed_memory
from sdavs_model.data.core.clip import Clip
from sdavs_model.ensemble import Ensemble
from sdavs_model.metrics import headline_of
from sdavs_model.metrics.base import format_scores
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.evaluation.scorers import Scorers
from sdavs_platform.evaluation.scoring import Scores, score
from sdavs_platform.storage.datasets import open_split
from sdavs_platform.tracking.registry import find_version, register_artifact
from sdavs_platform.tracking.runs import TrainingRun, git_commit
from sdavs_platform.training.export import export_checkpoint

logger = logging.getLogger(__name__)

CLIPS_PER_SCORER = 50
"""Our choice: fewest clips of a test split for which one more worker is started."""


def finish_training(
    checkpoint: ray.train.Checkpoint,
    *,
    config: RunConfig,
    val_scores: Scores,
    uri: str,
    run_id: str,
    data_digest: str,
    weights: Mapping[str, Any],
    lineage_tags: dict[str, str] | None = None,
    others: Sequence[tuple[ray.train.Checkpoint, RunConfig]] = (),
) -> tuple[dict[str, Scores], int | None]:
    """Export, score the test splits, register. Runs as a Ray task with a worker's resources.

    Args:
        weights: what `describe_weights` says of the pretrained weights, which this machine need not have.
        lineage_tags: where the training belongs to, such as its sweep; added to the lineage and the version's tags.
        others: the checkpoints and configs of trainings that make an ensemble together with this one.

    Returns:
        Scores by split, and the registered version (None if `tracking.registered_model` is null).
    """
    torch.set_num_threads(config.cluster.cpus_per_worker)
    keep_freed_memory()
    run = TrainingRun(uri=uri, run_id=run_id)
    device = "cuda" if config.cluster.use_gpu else "cpu"
    scorers = Scorers(
        num_workers=config.cluster.max_workers,
        num_cpus=config.cluster.cpus_per_worker,
        use_gpu=bool(config.cluster.use_gpu),
        joins=True,
        min_clips=CLIPS_PER_SCORER,
        root=config.data.root,
    )
    lineage: dict[str, Any] = {
        "run_id": run_id,
        "name": config.name,
        "data_digest": data_digest,
        "git_commit": git_commit(),
        "seed": config.seed,
        "audio": config.data.audio,
        "weights": weights,
        "checkpoint": _address(checkpoint),
    } | (lineage_tags or {})
    with tempfile.TemporaryDirectory(prefix="sdavs-artifact-") as scratch:
        folder = Path(scratch)
        lineage = export_checkpoint(checkpoint, folder, config=config, lineage=lineage)
        loaded = load_artifact(folder, device=device)
        model = _joined(loaded.model, others, scratch=folder / "others", device=device)
        lineage |= (
            {"members": [lineage["checkpoint"], *(_address(each) for each, _ in others)]} if others else {}
        )
        scores = {config.data.val_split: val_scores}
        headlines: dict[str, float] = {}
        for split in config.data.test_splits:
            clips = open_split(config, split)
            scores[split] = score(model, clips, audio=config.data.audio, device=device, scorers=scorers)
            headline = headline_of(clips.source.protocol)
            headlines[f"{split}_{headline}"] = scores[split][headline]
            run.log_metrics({f"test/{split}/{k}": v for k, v in scores[split].items()}, step=0)
            logger.info("test %s: %s", split, format_scores(scores[split]))
        save_artifact(
            folder,
            model=model.cpu(),
            classes=loaded.classes,
            metrics=scores,
            lineage=lineage,
            golden_clips=_golden_clips(config),
        )
        figures = {"val_miou": val_scores["miou"]} | headlines
        tags = {name: f"{value:.4f}" for name, value in figures.items()}
        tags |= {
            key: lineage[key] for key in ("data_digest", "data_kind", "git_commit", "checkpoint", "audio")
        }
        tags |= {"training": config.name} | (lineage_tags or {})
        version = _registered(folder, config, run_id=run_id, tags=tags, uri=uri)
    return scores, version


def _registered(
    folder: Path, config: RunConfig, *, run_id: str, tags: dict[str, str], uri: str
) -> int | None:
    """The version that an artifact is registered as; None if the config names no registered model."""
    name = config.tracking.registered_model
    if not name:
        return None
    # There is one if this task was lost after it had registered, and runs again.
    if version := find_version(name, {"checkpoint": tags["checkpoint"]}, run_id=run_id, uri=uri):
        return version
    return register_artifact(folder, name=name, config=config.model, run_id=run_id, tags=tags, uri=uri)


def _joined(
    model: SegmentationModel,
    others: Sequence[tuple[ray.train.Checkpoint, RunConfig]],
    *,
    scratch: Path,
    device: str,
) -> SegmentationModel:
    """The model, or the ensemble that it makes with others."""
    if not others:
        return model
    members = [model]
    for checkpoint, config in others:
        export_checkpoint(checkpoint, scratch, config=config, lineage={})
        members.append(load_artifact(scratch, device=device).model)
        shutil.rmtree(scratch)
    return Ensemble(members)


def _golden_clips(config: RunConfig) -> list[Clip]:
    """Two validation clips of one length for the artifact; none where files hold log-mels instead of sound."""
    clips = open_split(config, config.data.val_split).source
    picked = [clips.clip(index) for index in {0, len(clips) // 2} if clips.files[index].wav.is_file()]
    return [clip for clip in picked if clip.num_frames == picked[0].num_frames]


def _address(checkpoint: ray.train.Checkpoint) -> str:
    """With the scheme that Ray Train leaves out."""
    assert checkpoint.filesystem is not None  # Ray Train's own checkpoints always have one
    kind = checkpoint.filesystem.type_name
    return checkpoint.path if kind == "local" else f"{kind}://{checkpoint.path}"
