"""Stop requests and preemption: the workers agree on a step after which they save and exit together.

The driver's SIGTERM (`ray job stop`) reaches the first worker through the cluster's key-value store. A node's drain
(`ray drain-node`, sent by an autoscaler before it takes a spot machine away) reaches all through Ray Train, each at its
own moment. So the workers run one small reduction during every step, and leave after the same step.
"""

import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType

import torch
import torch.distributed as dist

from sdavs_platform.ray_internals import is_preempted, kv_get, kv_put

EXIT_CODE = 128 + signal.SIGTERM
"""Exit status of a job that was stopped, as shells define it."""

STOP_PATIENCE_S = 60.0
"""Our choice: workers that do not step, because they start or wait for resources, are not waited for longer."""

_STOPPED, _SUPERSEDED = b"stopped", b"superseded"
_LISTEN_S = 0.5


class StoppedError(RuntimeError):
    """The workers have saved, because the job is stopped."""


class SupersededError(StoppedError):
    """Another command has taken the training over: the workers leave without saving into what is its folder now."""


class PreemptedError(RuntimeError):
    """The workers have saved, because a node is being drained; they restart on the remaining nodes."""


class StopRequest:
    """Context manager in which SIGTERM asks the workers to save and exit; a second SIGTERM ends this process at once.

    Without effect in any but the main thread, which alone receives signals.

    Args:
        on_request: called once, in a thread of its own: a job that is stopped may have three seconds to live.

    Attributes:
        key: in the key-value store, where the workers look.
        is_made: whether SIGTERM has come, or another command has taken the training over.
    """

    def __init__(self, *, on_request: Callable[[], None]) -> None:
        self.key = f"stop-{secrets.token_hex(8)}"
        self.is_made = False
        self._on_request = on_request
        self._impatient: threading.Timer | None = None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before)
        if self._impatient:
            self._impatient.cancel()

    def supersede(self) -> None:
        """Let the workers leave without saving: another command has taken the training over."""
        self.is_made = True
        kv_put(self.key, _SUPERSEDED)
        self._end_after_patience()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_made:
            sys.exit(EXIT_CODE)
        self.is_made = True
        kv_put(self.key, _STOPPED)
        threading.Thread(target=self._on_request, daemon=True).start()
        self._end_after_patience()

    def _end_after_patience(self) -> None:
        self._impatient = threading.Timer(STOP_PATIENCE_S, os.kill, args=(os.getpid(), signal.SIGTERM))
        self._impatient.daemon = True
        self._impatient.start()


class Notices:
    """A worker's notices of a stop or a drained node; all workers call `begin` and `agreed` around each step."""

    def __init__(self, *, stop_key: str, rank: int) -> None:
        # On the CPU also where the workers' own group is NCCL's: this must not wait for the GPU.
        self._group = dist.new_group(backend="gloo")
        self._request: bytes | None = None
        self._shared = torch.zeros(3, dtype=torch.int32)
        self._sharing: dist.Work | None = None
        if rank == 0:
            threading.Thread(target=self._listen, args=(stop_key,), name="notices", daemon=True).start()

    def begin(self) -> None:
        """Exchange this worker's notices with the others while the step runs."""
        known = (self._request == _SUPERSEDED, self._request == _STOPPED, is_preempted())
        self._shared = torch.tensor(known, dtype=torch.int32)
        self._sharing = dist.all_reduce(self._shared, dist.ReduceOp.MAX, group=self._group, async_op=True)

    def agreed(self) -> StoppedError | PreemptedError | None:
        """The error to exit with after saving, if any worker had a notice when this step began."""
        assert self._sharing is not None
        self._sharing.wait()
        superseded, stopping, preempted = self._shared.tolist()
        if superseded:
            return SupersededError("another command has taken over")
        if stopping:
            return StoppedError("stopped after a checkpoint")
        return PreemptedError("a node is being drained") if preempted else None

    def _listen(self, key: str) -> None:
        while self._request != _SUPERSEDED:
            time.sleep(_LISTEN_S)
            self._request = kv_get(key)
