"""What a trial is worth and what it costs, measured in Ray tasks with a worker's resources."""

import tempfile
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch.utils.data import DataLoader

from sdavs_model import benchmark, build_model, load_artifact
from sdavs_model.engine import AudioControlled, evaluate
from sdavs_platform.config import RunConfig
from sdavs_platform.training.batches import open_split, silence
from sdavs_platform.training.finish import export_checkpoint

LATENCY_REPEATS = 3


def on_a_worker(function: Any, config: RunConfig, **arguments: Any) -> Any:
    """Run `function(config=..., **arguments)` as a Ray task with the resources of one training worker.

    Raises:
        ValueError, RuntimeError: what the function raised.
    """
    cluster = config.cluster
    nowhere: Any = None
    task = ray.remote(
        num_cpus=cluster.cpus_per_worker,
        num_gpus=int(cluster.use_gpu),
        # A trial's driver lives in a placement group without any CPU, which its tasks would wait in forever.
        scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=nowhere),
        max_retries=1,
    )(function)
    try:
        return ray.get(task.remote(config=config, **arguments))
    except ray.exceptions.RayTaskError as error:
        raise RuntimeError(f"{function.__name__}: {error.cause}") from error


def measure_cost(*, config: RunConfig) -> dict[str, float]:
    """Time for one clip (median, in ms, on one worker), multiply-accumulates in G, parameters in M.

    Time is taken where the trial trains, so it is as noisy as that machine is busy; the other two are exact.
    """
    torch.set_num_threads(config.cluster.cpus_per_worker)
    counted = benchmark.cost(config.model)
    model = build_model(config.model).to("cuda" if config.cluster.use_gpu else "cpu")
    timed = benchmark.speed(model, repeats=LATENCY_REPEATS)
    return {
        "latency_ms": 1000 * timed.clip_s,
        "gmacs": counted.macs / 1e9,
        "parameters_m": counted.parameters / 1e6,
    }


def score_clips(
    *, config: RunConfig, checkpoint: str, conditions: tuple[str, ...]
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """J and F of every clip of the test splits, under every condition of the sound.

    Returns:
        Condition -> split -> {"miou", "fscore"}: one value a clip, in the split's order.
    """
    torch.set_num_threads(config.cluster.cpus_per_worker)
    device = "cuda" if config.cluster.use_gpu else "cpu"
    with tempfile.TemporaryDirectory(prefix="sdavs-trial-") as folder:
        export_checkpoint(ray.train.Checkpoint(checkpoint), Path(folder), config=config, lineage={})
        model = load_artifact(folder, device=device).model
    return {
        condition: {
            split: _split_scores(model, config, split, condition=condition, device=device)
            for split in config.data.test_splits
        }
        for condition in conditions
    }


def _split_scores(
    model: Any, config: RunConfig, split: str, *, condition: str, device: str
) -> dict[str, list[float]]:
    heard = AudioControlled(
        open_split(config, split), control=config.data.audio, silence=silence(config.model)
    )
    clips = [evaluate(model, [batch], device=device).compute() for batch in DataLoader(heard, batch_size=1)]
    return {metric: [clip[metric] for clip in clips] for metric in ("miou", "fscore")}
