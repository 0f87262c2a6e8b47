"""How the jobs show progress: one bar a stage on a terminal, a line now and then where there is none."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bars(every: int = 100) -> Iterator[Callable[[str, int, int], None]]:
    """A function to be told (stage, done, total); off a terminal it prints every `every`-th time to stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    tasks = {}

    def show(stage: str, done: int, total: int) -> None:
        if bars.disable:
            if done % every == 0 or done == total:
                print(f"{stage}: {done} of {total}", file=sys.stderr, flush=True)
            return
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total)
        bars.update(tasks[stage], completed=done, total=total)

    with bars:
        yield show
