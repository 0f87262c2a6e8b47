"""Run a function over many arguments in several processes, and the type of progress callbacks."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""Called with the stage, how much of it is done, and how much there is."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Report nothing."""


def in_processes(
    function: Callable[..., T], calls: Sequence[tuple[Any, ...]], num_workers: int
) -> Iterator[T]:
    """The results of `function(*call)` for every call, in the order in which they end.

    One worker means this process. If a call fails, or the caller stops iterating, calls that have not begun are
    dropped.
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
    """Ctrl-C reaches the whole process group; the parent lets running calls end and drops the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
