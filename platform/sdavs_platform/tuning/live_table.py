"""The progress of a running sweep: a live table on a terminal, a line per ended trial elsewhere."""

import time
from collections import Counter, deque
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sdavs_platform.tuning.store import ENDED, TrialRecord, clock, values_text
from sdavs_platform.tuning.sweep import METRICS

SUMMARY_EVERY_S = 60.0
"""Seconds between summaries where the output is no terminal."""

REDRAWN_PER_S = 2.0

STYLES = {"running": "cyan", "finished": "green", "stopped": "yellow", "failed": "red", "interrupted": "red"}


class LiveTable:
    """Shows the running trials, those that ended last, and the best one; keeps no other records in memory."""

    def __init__(self, *, name: str, num_trials: int, objective: str, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._name, self._num_trials, self._objective = name, num_trials, objective
        self._running: dict[str, TrialRecord] = {}
        self._since: dict[str, float] = {}
        self._ended: deque[TrialRecord] = deque(maxlen=40)
        self._counts: Counter[str] = Counter()
        self._best: tuple[float, str] | None = None
        self._live: Live | None = None
        self._started = self._printed_at = time.monotonic()

    def __enter__(self) -> "LiveTable":
        if self.console.is_terminal:
            self._live = Live(
                get_renderable=self.render, console=self.console, refresh_per_second=REDRAWN_PER_S
            ).__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.__exit__(kind, error, trace)

    def known(self, record: TrialRecord) -> None:
        """Add a trial that ended before this command."""
        self._counts[record.state] += 1
        self._ended.append(record)
        self._note_best(record)

    def show(self, record: TrialRecord) -> None:
        """Show a trial that has started, reported or ended."""
        if record.state == "running":
            self._running[record.id] = record
            self._since.setdefault(record.id, time.monotonic() - record.seconds)
            self._note_best(record)
            return
        self._running.pop(record.id, None)
        self._since.pop(record.id, None)
        self.known(record)
        if not self._live:
            self.console.print(self._line(record), soft_wrap=True)

    def tick(self) -> None:
        """Print a summary every `SUMMARY_EVERY_S` seconds where there is no terminal."""
        if not self._live and time.monotonic() - self._printed_at > SUMMARY_EVERY_S:
            self._printed_at = time.monotonic()
            epochs = ", ".join(f"{r.id} epoch {_epoch(r)}" for r in self._running.values())
            self.console.print(f"{self._summary()} | {epochs or 'waiting'}", soft_wrap=True)

    def render(self) -> Group:
        """The summary and the table, cut to the height of the terminal."""
        room = max(3, self.console.height - 6)
        shown = [*self._running.values()][:room]
        shown += [*self._ended][::-1][: room - len(shown)]
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for title in ("trial", "state", "epoch", "J", "best J", "time"):
            table.add_column(title, justify="left" if title in ("trial", "state") else "right", no_wrap=True)
        table.add_column("values", ratio=1, no_wrap=True, overflow="ellipsis")
        for record in shown:
            last = record.reports[-1]["val_miou"] if record.reports else None
            table.add_row(
                record.id,
                Text(record.state, style=STYLES.get(record.state, "")),
                _epoch(record),
                _number(last),
                _number(record.best.get("val_miou")),
                clock(self._seconds(record)),
                record.error or values_text(record.values),
            )
        return Group(Text(self._summary(), style="bold"), table)

    def _line(self, record: TrialRecord) -> str:
        text = f"{record.id:<8} {record.state:<11} epoch {_epoch(record):>3}  J {_number(record.best.get('val_miou'))}"
        return f"{text}  {clock(record.seconds)}  {record.error or values_text(record.values)}"

    def _summary(self) -> str:
        ended = sum(self._counts[state] for state in ENDED)
        parts = [f"{self._name}: {ended} of {self._num_trials} trials"]
        parts += [f"{self._counts[state]} {state}" for state in ("stopped", "failed") if self._counts[state]]
        parts.append(clock(time.monotonic() - self._started))
        if self._best:
            parts.append(f"best {self._objective} {_number(self._best[0])} ({self._best[1]})")
        return " | ".join(parts)

    def _seconds(self, record: TrialRecord) -> float:
        since = self._since.get(record.id)
        return record.seconds if since is None else time.monotonic() - since

    def _note_best(self, record: TrialRecord) -> None:
        value = record.best.get(self._objective)
        if value is None or record.state == "failed":
            return
        sign = 1 if METRICS[self._objective].mode == "max" else -1
        if self._best is None or sign * value > sign * self._best[0]:
            self._best = (value, record.id)


def _epoch(record: TrialRecord) -> str:
    return f"{record.reports[-1]['epoch']:.0f}" if record.reports else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
