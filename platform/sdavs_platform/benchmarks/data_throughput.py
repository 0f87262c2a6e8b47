"""Measures whether data loading keeps up: clips/s from disk, cache and bucket, and clips/s that training steps take."""

import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from sdavs_model import build_model
from sdavs_model.data.core.audio_cache import SoundCache
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.data.datasets import open_splits
from sdavs_model.data.training_clips import TrainingClips, collate_clips, open_training_clips
from sdavs_model.training_step import move, training_loss
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.storage.datasets import local_copy, open_split
from sdavs_platform.tables import text_table

NUM_STEPS = 3

logger = logging.getLogger(__name__)


def measure(
    config: RunConfig,
    *,
    num_workers: Sequence[int],
    num_clips: int,
    bucket: str | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Load the same clips in several ways, and train on a few of them.

    Args:
        config: gives data set, model, batch size and augmentation.
        num_workers: numbers of loader processes to try; 0 decodes in this process.
        num_clips: how many clips of the training split, from its start.
        bucket: a copy of the data set, as `prepare_data.py upload` wrote it; downloaded into an empty cache once for
            each number of transfers.
        device: where the model trains.

    Returns:
        {"model": {"step_s", "batch_size", "clips_per_s"}, "loader": {way: {workers: clips per second}},
        "bucket": {transfers: clips per second}, "enough": {way: workers or None}}.

    Raises:
        ValueError: as `open_split` and `local_copy`.
    """
    clips = open_split(config, config.data.train_split, training=True)
    num_clips = min(num_clips, len(clips))
    report: dict[str, Any] = {"clips": num_clips, "loader": {}, "bucket": {}, "enough": {}}
    logger.info(f"training steps on {device}")
    report["model"] = _step_time(config, clips, device)
    with tempfile.TemporaryDirectory() as folder:
        kept = SoundCache(folder)
        for way, varied, sounds in (
            ("varied, sound from disk", True, None),
            ("varied, sound from cache", True, kept),
            ("as stored, sound from disk", False, None),
            ("as stored, log-mel from cache", False, kept),
        ):
            if varied and not config.data.augmented:
                continue
            clips = _open(config, varied=varied, sounds=sounds)
            speeds = {}
            for number in num_workers:
                logger.info(f"{way}, {number} loader processes")
                speeds[number] = _loader_speed(clips, num_clips, config.training.batch_size, number)
            report["loader"][way] = speeds
            needed = report["model"]["clips_per_s"]
            report["enough"][way] = min((n for n, speed in speeds.items() if speed >= needed), default=None)
    if bucket is not None:
        for transfers in (1, 8, 32):
            logger.info(f"fetching {bucket}, {transfers} transfers at once")
            report["bucket"][transfers] = _fetch_speed(config, bucket, transfers)
    return report


def results_table(report: dict[str, Any]) -> str:
    """The results as text."""
    model = report["model"]
    lines = [
        f"model: {model['step_s'] * 1000:.0f} ms a step of {model['batch_size']} clips, so it needs "
        f"{model['clips_per_s']:.1f} clips/s",
        "",
        f"clips/s over {report['clips']} clips, by loader processes:",
    ]
    numbers = list(next(iter(report["loader"].values())))
    rows = []
    for way, speeds in report["loader"].items():
        enough = report["enough"][way]
        cells = [f"{speeds[number]:.1f}" for number in numbers]
        rows.append([way, *cells, "none of these" if enough is None else enough])
    lines.append(text_table(["", *map(str, numbers), "enough"], rows))
    if report["bucket"]:
        lines += [
            "",
            "clips/s from the bucket into the local copy (once per machine), by parallel transfers:",
        ]
        lines.append("  " + "   ".join(f"{n}: {speed:.1f}" for n, speed in report["bucket"].items()))
    return "\n".join(lines)


def _open(config: RunConfig, *, varied: bool, sounds: SoundCache | None) -> TrainingClips:
    """The training split, with or without augmentation and a cache."""
    assert config.data.root is not None
    return open_training_clips(
        config.data.kind,
        local_copy(config.data.root),
        config.data.train_split,
        Preprocessor(config.model.preprocess),
        num_frames=config.model.num_frames,
        training=True,
        augment=config.data.augment if varied else None,
        seed=config.seed,
        sounds=sounds,
    )


def _loader_speed(clips: TrainingClips, num_clips: int, batch_size: int, num_workers: int) -> float:
    """Clips/s over one pass, after a first one that starts the processes and fills the caches."""
    loader: DataLoader[Any] = DataLoader(
        Subset(clips, list(range(num_clips))),
        batch_size=batch_size,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=collate_clips,
    )
    for _ in loader:
        pass
    started = time.perf_counter()
    loaded = sum(len(batch["name"]) for batch in loader)
    return loaded / (time.perf_counter() - started)


def _step_time(config: RunConfig, clips: TrainingClips, device: str) -> dict[str, float]:
    """Time of a plain training step (forward, backward, AdamW) on a batch in memory."""
    size = min(config.training.batch_size, len(clips))
    batch = move(collate_clips([clips[index] for index in range(size)]), device)
    model = build_model(config.model.without_weights()).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optimizer.lr)
    times = []
    for _ in range(NUM_STEPS + 1):
        _wait(device)
        started = time.perf_counter()
        optimizer.zero_grad()
        training_loss(model, batch)["loss"].backward()
        optimizer.step()
        _wait(device)
        times.append(time.perf_counter() - started)
    step = sum(times[1:]) / NUM_STEPS  # the first one warms up
    return {"step_s": step, "batch_size": size, "clips_per_s": size / step}


def _fetch_speed(config: RunConfig, bucket: str, transfers: int) -> float:
    """Clips/s of all splits from a bucket into an empty cache, with every digest verified."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        copy = local_copy(bucket, cache=Path(folder), num_workers=transfers)
        seconds = time.perf_counter() - started
        splits = open_splits(copy, config.data.kind, num_frames=config.model.num_frames)
        return sum(map(len, splits.values())) / seconds


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
