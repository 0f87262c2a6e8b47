"""The progress of a running sweep, on a terminal and in a log."""

import io

from rich.console import Console
from sdavs_platform.tuning.live_table import LiveTable
from sdavs_platform.tuning.store import TrialRecord


def record(number, state, miou=None, **more):
    reports = [] if miou is None else [{"epoch": 3.0, "val_miou": miou, "val_fscore": 0.0, "seconds": 9.0}]
    values = {"optimizer.lr": 0.00123}
    return TrialRecord(
        id=f"t{number:04d}", number=number, values=values, state=state, reports=reports, seconds=75.0, **more
    )


def table_on(console):
    return LiveTable(name="lr", num_trials=9, objective="val_miou", console=console)


def test_a_log_gets_one_line_for_each_trial_that_ended_and_nothing_else():
    out = io.StringIO()
    with table_on(Console(file=out, highlight=False)) as table:
        table.show(record(0, "running"))
        table.show(record(0, "running", 0.2))
        table.show(record(0, "finished", 0.25))
        table.show(record(1, "failed", error="out of memory"))
    lines = out.getvalue().splitlines()
    assert [line.split() for line in lines] == [
        ["t0000", "finished", "epoch", "3", "J", "0.250", "1:15", "lr", "0.00123"],
        ["t0001", "failed", "epoch", "-", "J", "-", "1:15", "out", "of", "memory"],
    ]


def test_the_table_fits_the_terminal_and_shows_the_running_trials_first():
    console = Console(file=io.StringIO(), force_terminal=True, width=90, height=14, record=True)
    table = table_on(console)
    for number in range(30):
        table.show(record(number, "finished", number / 100))
    table.show(record(30, "running", 0.1))
    console.export_text()  # the lines of the ended trials, which a live table would have kept back
    console.print(table.render())
    lines = console.export_text().splitlines()
    assert len(lines) <= 14
    assert "lr: 30 of 9 trials" in lines[0]
    assert "best val_miou 0.290 (t0029)" in lines[0]
    assert lines[2].split()[:4] == ["t0030", "running", "3", "0.100"]
    assert lines[3].split()[0] == "t0029"
