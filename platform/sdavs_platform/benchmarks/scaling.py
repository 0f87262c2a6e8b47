"""Measures what a distributed training step costs with a few processes, and predicts it for many GPUs."""

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

from sdavs_model import SDAVSConfig, SegmentationModel, build_model
from sdavs_model.benchmark import cost
from sdavs_model.budgets import SWIN_B
from sdavs_model.training_step import training_loss
from sdavs_platform.benchmarks.scaling_model import (
    MACHINES,
    Assumptions,
    Exchange,
    Link,
    Traffic,
    exchange_seconds,
    predict,
    wire_bytes,
)
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.deepspeed_internals import log_only
from sdavs_platform.training.engine import CastInputs, build_engine, compute_dtype
from sdavs_platform.training.pace import Pace
from sdavs_platform.training.telemetry.phase_timers import StepTimes

logger = logging.getLogger(__name__)

Report = dict[str, Any]
WARM_UP = 2
"""Untimed steps: in the first, ZeRO-3 records the order of the layers; in the second it computes when to release
weights, once, in time quadratic in the number of layers."""
SWIN_IMAGE_SIZE = 96
"""The smallest that Swin's windows allow; the traffic depends on the weights only."""


def measure(
    config: RunConfig,
    *,
    num_workers: Sequence[int],
    stages: Sequence[int],
    num_steps: int,
    num_gpus: Sequence[int],
    given: Assumptions,
) -> Report:
    """Train a few steps on random clips for each number of processes and ZeRO stage, then predict Swin-B on GPUs.

    Args:
        config: gives model and global batch; the batch is split over the processes, each with one thread.
        num_workers: numbers of processes.
        stages: ZeRO stages.
        num_steps: timed steps.
        num_gpus: numbers of GPUs to predict for.
        given: assumptions of the prediction.

    Returns:
        {"cores", "parameters", "batch_size", "link": {workers: Link}, "measured": rows, "traffic": of Swin-B by stage,
        "predicted": rows, "assumptions"}, plain JSON types.

    Raises:
        ValueError: the batch cannot be split evenly over a number of workers.
    """
    size = config.training.batch_size
    for number in num_workers:
        if size % number:
            raise ValueError(f"--workers: {number} does not divide training.batch_size, {size}")
    links, rows = {}, []
    for number in num_workers:
        found = []
        for stage in stages:
            found.append(run_group(number, _at(config, stage), num_steps=num_steps))
            logger.info(f"{number} workers, ZeRO-{stage}: {1000 * found[-1]['step_s']:.0f} ms a step")
        links[number] = _fastest_link([one["link"] for one in found])
        rows += [
            {"stage": stage, "workers": number} | one | _modelled(one["traffic"], number, links[number])
            for stage, one in zip(stages, found, strict=True)
        ]
    traffic, num_parameters = swin_traffic(stages)
    macs = cost(SDAVSConfig(backbone=SWIN_B)).macs
    predicted = [
        predict(
            traffic[stage],
            machine=machine,
            stage=stage,
            num_workers=number,
            macs_per_clip=macs,
            num_parameters=num_parameters,
            given=given,
        )
        for machine in MACHINES
        for stage in stages
        for number in num_gpus
    ]
    return {
        "cores": os.cpu_count(),
        "parameters": sum(p.numel() for p in build_model(config.model.without_weights()).parameters()),
        "batch_size": size,
        "link": links,
        "measured": rows,
        "swin_parameters": num_parameters,
        "traffic": {
            stage: {name: asdict(exchange) for name, exchange in exchanges.items()}
            for stage, exchanges in traffic.items()
        },
        "predicted": [
            asdict(one)
            | {"slowest_s": one.slowest_s, "fastest_s": one.fastest_s, "efficiency": one.efficiency}
            for one in predicted
        ],
        "assumptions": asdict(given),
    }


def swin_traffic(stages: Sequence[int]) -> tuple[dict[int, Traffic], int]:
    """The traffic of a step of Swin-B in bf16 by ZeRO stage, and the number of its trainable parameters."""
    small = SDAVSConfig(backbone=SWIN_B, image_size=SWIN_IMAGE_SIZE, num_frames=1)
    config = RunConfig.model_validate(
        {"model": small.to_dict(), "training": {"batch_size": 2, "precision": "bf16"}}
    )
    traffic, num_parameters = {}, 0
    for stage in stages:
        found = run_group(2, _at(config, stage), num_steps=1)
        traffic[stage], num_parameters = _traffic(found["traffic"]), found["parameters"]
        logger.info(
            f"Swin-B, two workers, bf16, ZeRO-{stage}: {wire_bytes(traffic[stage], 2) / 1e6:.0f} MB sent a step"
        )
    return traffic, num_parameters


def run_group(num_workers: int, config: RunConfig, *, num_steps: int) -> Report:
    """Train in new processes that are connected by gloo; returns the measurements of rank 0.

    Returns:
        {"link": Link, or None for a single process; "parameters": trainable ones; "step_s", "parts", "traffic"}.
    """
    with tempfile.TemporaryDirectory(prefix="sdavs-scaling-") as folder, _environment():
        # New processes for each case, so that none keeps the memory of another; the fork server imports only once.
        multiprocessing.get_context("forkserver").set_forkserver_preload(["deepspeed", "timm"])
        multiprocessing.start_processes(
            _worker,
            args=(num_workers, config.model_dump(mode="json"), num_steps, folder),
            nprocs=num_workers,
            start_method="forkserver",
        )
        return json.loads((Path(folder) / "found.json").read_text())


def _at(config: RunConfig, stage: int) -> RunConfig:
    return config.model_copy(update={"deepspeed": config.deepspeed.model_copy(update={"zero_stage": stage})})


def _fastest_link(links: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The lowest latency and highest bandwidth among equal groups: the others were slowed by something else."""
    found = [Link(**link) for link in links if link]
    if not found:
        return None
    return asdict(
        Link(
            latency_s=min(link.latency_s for link in found),
            bytes_per_s=max(link.bytes_per_s for link in found),
        )
    )


def _traffic(plain: dict[str, dict[str, float]]) -> Traffic:
    return {name: Exchange(**exchange) for name, exchange in plain.items()}


def _modelled(
    plain: dict[str, dict[str, float]], num_workers: int, link: dict[str, Any] | None
) -> dict[str, float]:
    traffic = _traffic(plain)
    return {
        "sent_bytes": wire_bytes(traffic, num_workers),
        "modelled_s": exchange_seconds(traffic, num_workers, Link(**link)) if link else 0.0,
    }


@contextmanager
def _environment() -> Iterator[None]:
    """Environment variables that the processes read while they import torch and DeepSpeed."""
    wanted = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def _worker(rank: int, world_size: int, plain: dict[str, Any], num_steps: int, folder: str) -> None:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_SIZE": world_size}
    os.environ.update({name: str(number) for name, number in numbers.items()})
    log_only(logging.ERROR)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    found: Report = {"link": asdict(_measured_link(world_size)) if world_size > 1 else None}
    times = StepTimes(use_gpu=False, watches_collectives=True)
    config = RunConfig.model_validate(plain)
    model = build_model(config.model.without_weights())
    found["parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    found |= _train(config, model, times, num_steps=num_steps, world_size=world_size)
    if rank == 0:
        (Path(folder) / "found.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def _train(
    config: RunConfig, model: SegmentationModel, times: StepTimes, *, num_steps: int, world_size: int
) -> dict[str, Any]:
    engine = build_engine(config, model, pace=Pace(WARM_UP + num_steps), world_size=world_size)
    cast = CastInputs(engine, compute_dtype(config)).train()
    watched = times.collectives
    assert watched is not None
    batch = _made_up(config, num_clips=config.training.batch_size // world_size)
    started = 0.0
    for step in range(WARM_UP + num_steps):
        if step == WARM_UP:
            times.means()
            dist.barrier()
            watched.clear()
            started = time.perf_counter()
        for clips in times.loading([batch]):
            with times.part("forward"):
                loss = training_loss(cast, clips)["loss"]
            with times.part("backward"):
                engine.backward(loss)
            with times.part("optimizer"):
                engine.step()
    seconds = (time.perf_counter() - started) / num_steps
    traffic: Traffic = {
        name: Exchange(calls=calls / num_steps, num_bytes=watched.num_bytes[name] / num_steps)
        for name, calls in watched.calls.items()
    }
    parts = times.means()
    engine.destroy()
    return {
        "step_s": seconds,
        "parts": {name.removeprefix("time/"): value for name, value in parts.items()},
        "traffic": {name: asdict(exchange) for name, exchange in traffic.items()},
    }


def _made_up(config: RunConfig, *, num_clips: int) -> dict[str, Any]:
    """Noise in the shapes of a batch, with as many seconds as the training uses of each clip."""
    augment = config.data.augment if config.data.augmented else None
    seconds = (augment.window if augment else None) or config.model.num_frames
    side = config.model.image_size
    return {
        "name": [str(index) for index in range(num_clips)],
        "frames": torch.randn(num_clips, seconds, 3, side, side),
        "log_mel": torch.randn(num_clips, seconds, *config.model.preprocess.log_mel_shape),
        "masks": torch.randint(0, 2, (num_clips, seconds, side, side)),
    }


def _measured_link(world_size: int) -> Link:
    """Latency and bandwidth between these processes, from all-reduces of one number and of 16 MB."""
    messages = 2 * (world_size - 1)
    small, large = torch.zeros(1), torch.zeros(4_000_000)
    latency = _fastest(small, repeats=50) / messages
    whole = _fastest(large, repeats=5) - latency * messages
    return Link(latency_s=latency, bytes_per_s=messages / world_size * 16e6 / whole)


def _fastest(tensor: torch.Tensor, *, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(tensor)
        times.append(time.perf_counter() - started)
    return min(times)
