"""One function over many arguments, in processes, with results as they come and a clean Ctrl-C."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

T = TypeVar("T")


def in_processes(
    function: Callable[..., T], calls: Sequence[tuple[Any, ...]], num_workers: int
) -> Iterator[T]:
    """The results of `function(*call)` for every call, in no order; one worker means this process.

    If one call fails, or the caller stops asking, calls that have not begun are dropped.
    """
    if num_workers == 1:
        for call in calls:
            yield function(*call)
        return
    # Fresh processes: forking one that runs threads (a Ray driver does) can deadlock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, initializer=_leave_interrupts_to_parent) as workers:
        try:
            for future in as_completed([workers.submit(function, *call) for call in calls]):
                yield future.result()
        except BaseException:
            workers.shutdown(cancel_futures=True)
            raise


def _leave_interrupts_to_parent() -> None:
    """Ctrl-C reaches the whole process group; the parent lets the calls in work end, and only those."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
