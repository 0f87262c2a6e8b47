"""Counts and times collective operations of the workers, for benchmarks and profiles."""

import functools
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import Work, distributed_c10d

_COLLECTIVES = (
    "all_gather",
    "all_gather_into_tensor",
    "all_reduce",
    "all_reduce_coalesced",
    "barrier",
    "broadcast",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
)


class Collectives:
    """Counts and times the collectives of this process, whether called by DeepSpeed, batch norms or the loop.

    torch has no hook that works for gloo and NCCL alike, so the functions of `torch.distributed` are replaced for the
    life of the process. Make it before the engine: DeepSpeed keeps some of them.

    Args:
        waiting: entered during a collective, and during the wait for one that runs in the background.

    Attributes:
        calls: by function, since the last `clear`.
        num_bytes: by function, of whole tensors: what is reduced, what a gather makes, what a scatter cuts. What goes
            over the wire is a multiple of it that depends on the algorithm; see `scaling_model`.
    """

    def __init__(self, waiting: Callable[[], AbstractContextManager[None]]) -> None:
        self._waiting = waiting
        self._is_inside = False
        self.calls: Counter[str] = Counter()
        self.num_bytes: Counter[str] = Counter()
        for name in _COLLECTIVES:
            watched = self._watched(getattr(dist, name))
            for module in (dist, distributed_c10d):
                setattr(module, name, watched)
        # What was started with async_op=True costs time where it is waited for.
        Work.wait = self._timed(Work.wait)  # type: ignore[method-assign]

    def clear(self) -> None:
        """Start counting from zero."""
        self.calls.clear()
        self.num_bytes.clear()

    def _watched(self, collective: Callable[..., Any]) -> Callable[..., Any]:
        timed = self._timed(collective)

        @functools.wraps(collective)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if not self._is_inside:
                self.calls[collective.__name__] += 1
                self.num_bytes[collective.__name__] += max(map(_size, (*args, *kwargs.values())), default=0)
            return timed(*args, **kwargs)

        return watched

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            # Collectives are made of others, and wait for themselves.
            if self._is_inside:
                return function(*args, **kwargs)
            self._is_inside = True
            try:
                with self._waiting():
                    return function(*args, **kwargs)
            finally:
                self._is_inside = False

        return timed


def _size(value: Any) -> int:
    """Bytes of a tensor or of a list of them; 0 for anything else."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    return sum(map(_size, value)) if isinstance(value, list) else 0
