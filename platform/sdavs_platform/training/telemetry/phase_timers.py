"""Timers for the phases of a training step, and memory and utilisation of the GPU; read at every log point."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
import torch.distributed as dist

from sdavs_platform.training.telemetry.collectives import Collectives

PARTS = ("data", "forward", "backward", "optimizer", "checkpoint")
"""One after another; together a step, except for what the loop itself does."""
COMMUNICATION = "communication"
"""Inside forward, backward and optimizer, not in addition to them. Only where collectives are watched."""

T = TypeVar("T")


class StepTimes:
    """A timer for each phase of the step.

    On CPU by the wall clock. A GPU runs asynchronously: there forward, backward, optimizer and communication are
    taken by CUDA events, which nobody waits for until `means`. Loading and checkpoints are the program's own time
    everywhere.

    Communication is the time for which the worker, or the GPU's stream that asked, waits for a collective, slower
    workers included. What overlaps with computation does not count, except on a stream of its own (ZeRO-3's
    reductions on GPU), where all of it counts.

    Args:
        watches_collectives: time communication, too. That patches `torch.distributed` for the life of the process (see
            `Collectives`), so only benchmarks and trainings with `training.profile` do it, and before they make the
            engine.

    Attributes:
        collectives: counts calls and bytes; None without `watches_collectives`.
    """

    def __init__(self, *, use_gpu: bool, watches_collectives: bool) -> None:
        self._use_gpu = use_gpu
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._num_steps = 0
        self._is_in_step = False
        self.collectives = Collectives(self._waiting) if watches_collectives else None

    def loading(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; counts the steps, and the time until each batch is there as "data"."""
        started = time.perf_counter()
        for batch in batches:
            self._seconds["data"] += time.perf_counter() - started
            self._num_steps += 1
            yield batch
            started = time.perf_counter()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Context manager that times "forward", "backward" or "optimizer"; profiles have the same names."""
        assert name in PARTS
        self._is_in_step = True
        with torch.profiler.record_function(f"step/{name}"), self._span(name):
            yield
        self._is_in_step = False

    @contextlib.contextmanager
    def checkpoint(self) -> Iterator[None]:
        """Context manager that times the writing of a checkpoint; its upload runs in the background."""
        started = time.perf_counter()
        yield
        self._seconds["checkpoint"] += time.perf_counter() - started

    def means(self) -> dict[str, float]:
        """{"time/<part>": seconds a step} since the last call, the mean of all workers, who call it together."""
        if self._events:
            torch.cuda.synchronize()
        for name, begin, end in self._events:
            self._seconds[name] += begin.elapsed_time(end) / 1000
        names = (*PARTS, COMMUNICATION) if self.collectives else PARTS
        seconds = torch.tensor([self._seconds[name] / self._num_steps for name in names], dtype=torch.float64)
        shared = seconds.to("cuda" if self._use_gpu else "cpu")
        dist.all_reduce(shared)
        self._seconds.clear()
        self._events.clear()
        self._num_steps = 0
        return {
            f"time/{name}": value / dist.get_world_size()
            for name, value in zip(names, shared.tolist(), strict=True)
        }

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        if self._is_in_step:
            with self._span(COMMUNICATION):
                yield
        else:
            yield

    @contextlib.contextmanager
    def _span(self, name: str) -> Iterator[None]:
        if self._use_gpu:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self._events.append((name, begin, end))
        else:
            started = time.perf_counter()
            yield
            self._seconds[name] += time.perf_counter() - started


def gpu_readings() -> dict[str, float]:
    """Of this worker's GPU: the largest memory since the last call, in GB, and its utilisation in percent.

    Utilisation is the driver's: the fraction of the last second or less in which any kernel ran. Drivers do not know it
    of a part of a GPU (MIG); it is left out there.
    """
    readings = {"gpu/memory_gb": torch.cuda.max_memory_allocated() / 1e9}
    torch.cuda.reset_peak_memory_stats()
    # The error's type is the driver library's (NVML, AMD SMI), and no reading is worth a training.
    with contextlib.suppress(Exception):
        readings["gpu/utilization"] = float(torch.cuda.utilization())
    return readings
