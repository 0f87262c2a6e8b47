"""The demo's progress: one line a step with its time, and what the step is doing right now."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

LOG_EVERY_S = 15.0
"""Seconds between the lines of a running step where there is no terminal to redraw."""


class Step:
    """One running step."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.result = ""
        """Shown behind the step when it is done."""
        self.now = ""
        self.started = time.monotonic()

    def elapsed(self) -> str:
        seconds = int(time.monotonic() - self.started)
        return f"{seconds // 60}:{seconds % 60:02d}"


class Display:
    """Numbered steps on a terminal (redrawn in place) or in a log (new lines)."""

    def __init__(self, *, num_steps: int, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._num_steps = num_steps
        self._number = 0
        self._step: Step | None = None
        self._live: Live | None = None
        self._said_at = 0.0

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
        """What the running step is doing."""
        assert self._step is not None
        self._step.now = text
        if not self.console.is_terminal and time.monotonic() - self._said_at > LOG_EVERY_S:
            self._said_at = time.monotonic()
            self.console.print(f"      {self._step.elapsed():>5}  {text}", soft_wrap=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(f"      {text}", soft_wrap=True)

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
