"""Detects steps that never end: every worker writes its stack, and the training fails, naming the worker that hangs.

The timer is C code (`faulthandler`), which needs no lock of Python's: it writes also for a worker that is stuck inside
an extension. A worker whose process is stopped writes nothing; its neighbours on the node report it.
"""

import contextlib
import faulthandler
import linecache
import logging
import os
import re
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import torch.distributed as dist

from sdavs_platform.ray_internals import fail_worker
from sdavs_platform.storage.filesystem import Storage
from sdavs_platform.tracking.runs import TrainingRun

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

GATHER_S = 60.0
"""Our choice: longest wait for the stacks of all workers and for MLflow; the storage may be what hangs."""

NEIGHBOUR_S = 10.0
"""Our choice: longest wait for the stack of a worker of this node, which may have begun its step later."""

_FRAME = re.compile(r'File "(?P<file>.+)", line (?P<line>\d+) in (?P<function>\S+)')
_WAITING = ("/torch/distributed/", "/deepspeed/comm/", "/telemetry/collectives.py", "/faults/notices.py")
"""Files in the stack of a worker that waits for another one."""
_READS_DEVICE = re.compile(r"\.(item|tolist|cpu|numpy|synchronize)\(|\b(float|int|bool)\(|isfinite|isnan")
"""Source of a call that ends when the GPU has finished what was queued, collectives among it."""


class Watchdog:
    """Fails the training if `beat` was not called for some time; inactive until the first call.

    Args:
        seconds: see `training.hang_seconds`; None: it never wakes.
        storage: address of the training's folder; stacks go to stacks/TIME/rank-0.txt and so on, there and among
            the artifacts of the MLflow run.
    """

    def __init__(
        self, *, seconds: float | None, rank: int, world_size: int, storage: str, uri: str, run_id: str
    ) -> None:
        self._seconds, self._rank, self._world_size = seconds, rank, world_size
        named = [time.strftime("%Y%m%d-%H%M%S")]
        dist.broadcast_object_list(named)
        self.address = f"{storage}/stacks/{named[0]}"
        self._uri, self._run_id = uri, run_id
        here = Path(tempfile.gettempdir())
        self._folder = here / f"sdavs-stacks-{run_id}-{named[0]}"
        for former in here.glob(f"sdavs-stacks-{run_id}-*"):
            if former != self._folder:  # of a group that was killed, and has ended
                shutil.rmtree(former, ignore_errors=True)  # another worker of this machine may be at it
        self._last: float | None = None
        self._is_closed = threading.Event()
        self._stacks: dict[int, str] = {}
        if seconds is not None:
            self._folder.mkdir(exist_ok=True)
            self._file = (self._folder / f"rank-{rank}.txt").open("w")
            self._file.write(f"worker {rank}, process {os.getpid()} on {socket.gethostname()}\n\n")
            self._file.flush()
            threading.Thread(target=self._watch, args=(seconds,), name="watchdog", daemon=True).start()

    def beat(self) -> None:
        """This worker is not stuck; called at every step."""
        if self._seconds is not None:
            self._last = time.monotonic()
            faulthandler.dump_traceback_later(self._seconds, file=self._file)

    def beating(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items, with a beat at each."""
        for item in items:
            self.beat()
            yield item

    def close(self) -> None:
        """No more beats."""
        self._is_closed.set()
        if self._seconds is not None:
            faulthandler.cancel_dump_traceback_later()
            Path(self._file.name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another worker's file lies there
                self._folder.rmdir()

    def _watch(self, seconds: float) -> None:
        while not self._is_closed.wait(min(1.0, seconds / 4)):
            # A second later than the timer in C, which has written by then.
            if self._last is not None and time.monotonic() - self._last > seconds + 1:
                break
        else:
            return
        deadline = time.monotonic() + GATHER_S
        gathering = threading.Thread(target=self._gather, daemon=True)
        gathering.start()
        gathering.join(GATHER_S)
        if self._rank != self._reporter():
            # The first error ends all workers, and the reporter may still be on its way to MLflow.
            time.sleep(max(0.0, deadline - time.monotonic()))
        error = TimeoutError(self._message(seconds))
        logger.warning("worker %d: %s", self._rank, error)
        fail_worker(error)

    def _gather(self) -> None:
        """Upload this node's stacks to the storage, and download those of the other nodes."""
        storage = Storage(self.address, field="storage.uri")
        deadline = time.monotonic() + NEIGHBOUR_S
        for file in self._folder.glob("rank-*.txt"):
            while _is_due(file.read_text()) and time.monotonic() < deadline:
                time.sleep(0.2)
            stack = _read_stacks(file)
            self._stacks[_rank_of(file.name)] = stack
            storage.write(file.name, stack.encode())
        while len(self._stacks) < self._world_size:
            time.sleep(0.5)
            for name in storage.sizes():
                with storage.open(name) as stream:
                    self._stacks[_rank_of(name)] = stream.read().decode()
        if self._rank == self._reporter():
            run = TrainingRun(uri=self._uri, run_id=self._run_id)
            for rank, stack in self._stacks.items():
                run.client.log_text(self._run_id, stack, f"stacks/{Path(self.address).name}/rank-{rank}.txt")

    def _reporter(self) -> int | None:
        """The first worker whose process is known to run."""
        return min((rank for rank, stack in self._stacks.items() if _frames(stack)), default=None)

    def _message(self, seconds: float) -> str:
        places = {rank: _place(self._stacks.get(rank)) for rank in range(self._world_size)}
        held = [f"worker {rank} {place}" for rank, place in places.items() if place]
        who = ", ".join(held) + "; the others wait for it" if held else "all workers wait for each other"
        return (
            f"no step for {seconds:g} s: {who}. Stacks of all: {self.address} and the MLflow run's artifacts"
        )


def _rank_of(name: str) -> int:
    return int(name.removeprefix("rank-").removesuffix(".txt"))


def _read_stacks(file: Path) -> str:
    """A worker's stack, or its node's description of a process that has written none."""
    stack = file.read_text()
    return stack if _frames(stack) else f"{stack}no stack: the process is {_status(stack)}\n"


def _is_due(stack: str) -> bool:
    """Whether a worker that has not written its stack is able to."""
    return not _frames(stack) and _status(stack) not in ("gone", psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)


def _status(stack: str) -> str:
    """The state of the process that this file of stacks belongs to."""
    pid = int(stack.split("process ")[1].split()[0])
    return psutil.Process(pid).status() if psutil.pid_exists(pid) else "gone"


def _frames(stack: str) -> list[re.Match[str]]:
    """The training thread's calls, innermost first."""
    for thread in stack.split("\n\n"):
        if " in train_worker\n" in thread:
            return list(_FRAME.finditer(thread))
    return []


def _place(stack: str | None) -> str | None:
    """Where a worker is stuck; None if it waits for another one, in a collective or for a GPU that is inside one."""
    if stack is None:
        return "does not answer"
    if not (frames := _frames(stack)):
        return f"does not answer ({stack.strip().splitlines()[-1]})"
    if any(part in frame["file"] for frame in frames[:4] for part in _WAITING):
        return None
    if _READS_DEVICE.search(linecache.getline(frames[0]["file"], int(frames[0]["line"]))):
        return None
    ours = next((frame for frame in frames if "/sdavs_" in frame["file"]), frames[0])
    return f"is stuck in {ours['function']} ({Path(ours['file']).name}:{ours['line']})"
