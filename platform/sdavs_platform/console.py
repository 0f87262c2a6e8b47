"""Output of a running command: log messages as plain lines, progress as bars or numbered steps.

Library code only calls `logging.getLogger(__name__)`. Entry points (the jobs, functions that Ray runs in a worker)
call `configure` once.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.spinner import Spinner
from rich.text import Text

LOGGERS = ("sdavs_model", "sdavs_platform", "sdavs_serve")

Show = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""

LINE_EVERY_S = 15.0
"""Seconds between the lines of a running step where there is no terminal to redraw."""

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


class Step:
    """One of the `Steps`."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.result = ""
        """Shown behind the title when the step is done."""
        self.now = ""
        self.started = time.monotonic()

    def elapsed(self) -> str:
        seconds = int(time.monotonic() - self.started)
        return f"{seconds // 60}:{seconds % 60:02d}"


class Steps:
    """Numbered steps with their times: redrawn in place on a terminal, new lines elsewhere."""

    def __init__(self, *, num_steps: int, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._num_steps = num_steps
        self._number = 0
        self._step: Step | None = None
        self._live: Live | None = None
        self._shown_at = 0.0

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Run one step; prints its result and time when it ends, also when it fails."""
        self._number += 1
        self._step = step = Step(title)
        try:
            if self.console.is_terminal:
                with Live(get_renderable=self._render, console=self.console, transient=True) as self._live:
                    yield step
            else:
                self.console.print(self._line(step, "...", ""), soft_wrap=True)
                yield step
        except BaseException:
            self.console.print(self._line(step, "stopped", step.elapsed()), soft_wrap=True)
            raise
        finally:
            self._step = self._live = None
        self.console.print(self._line(step, step.result, step.elapsed()), soft_wrap=True)

    def now(self, text: str) -> None:
        """Show what the running step is doing."""
        assert self._step is not None
        self._step.now = text
        if not self.console.is_terminal and time.monotonic() - self._shown_at > LINE_EVERY_S:
            self._shown_at = time.monotonic()
            self.console.print(f"      {self._step.elapsed():>5}  {text}", soft_wrap=True)

    def _line(self, step: Step, result: str, elapsed: str) -> Text:
        line = Text(f"[{self._number}/{self._num_steps}] ", style="dim")
        line.append(f"{step.title:<42}", style="bold")
        line.append(f"{elapsed:>6}  ")
        line.append(result)
        return line

    def _render(self) -> Spinner:
        assert self._step is not None
        line = self._line(self._step, "", self._step.elapsed())
        line.append(self._step.now, style="cyan")
        line.truncate(self.console.width - 3, overflow="ellipsis")
        return Spinner("dots", text=line)


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
