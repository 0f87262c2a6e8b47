"""What a command shows while it runs: log messages as plain lines, progress as bars.

Library code only calls `logging.getLogger(__name__)`. Entry points (the jobs, functions that Ray runs in a worker)
call `configure` once.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOGGERS = ("sdavs_model", "sdavs_platform", "sdavs_serve")

Show = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""

T = TypeVar("T")


def configure(*, to_stderr: bool = False) -> None:
    """Write this project's log messages as plain lines, from level INFO. Calling it again changes the stream only.

    Args:
        to_stderr: for commands whose standard output is a result, such as JSON.
    """
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [_Lines(to_stderr=to_stderr)]
        logger.setLevel(logging.INFO)
        # Ray Train puts a handler of its own on the root logger of its workers, which would repeat each line.
        logger.propagate = False


@contextmanager
def progress(*, every: int = 100) -> Iterator[Show]:
    """A function to call with (stage, done, total): one bar a stage on a terminal.

    Elsewhere it writes a line every `every`-th time and at the end of a stage. Both go to stderr.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines_every(every)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        tasks = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


def track(items: Iterable[T], stage: str, *, total: int, every: int = 100) -> Iterator[T]:
    """The items, with `progress` counting those that the caller has finished with."""
    with progress(every=every) as show:
        for done, item in enumerate(items, start=1):
            yield item
            show(stage, done, total)


def _lines_every(every: int) -> Show:
    def show(stage: str, done: int, total: int) -> None:
        if done % every == 0 or done == total:
            print(f"{stage}: {done} of {total}", file=sys.stderr, flush=True)

    return show


class _Lines(logging.StreamHandler):
    """Plain messages; warnings and errors name their level. Looks the stream up each time, as it may be replaced."""

    def __init__(self, *, to_stderr: bool) -> None:
        logging.Handler.__init__(self)
        self._to_stderr = to_stderr

    @property
    def stream(self):
        return sys.stderr if self._to_stderr else sys.stdout

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"
