"""What holds for all tests: their markers, limits that fit the machine, how pytest-xdist hands the files out."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import offer_shared_folder
from file_order import rank_of, scope_of
from waiting import patience, slowness
from worker_forks import offer_forks
from xdist.scheduler import LoadFileScheduling

STARTED_BY = {
    "cluster": {"two_cpus", "nodes", "cluster", "stack", "shell"},
    "server": {"server", "start", "site", "environment"},
    "browser": {"browser"},
}
"""Markers, and the fixtures that make them true of a test; `slow` is the only one that a test file itself sets."""


class SharedStarts(LoadFileScheduling):
    """File by file, except where several files share what takes long to start."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log) -> LoadFileScheduling | None:
    return SharedStarts(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_configure(config: pytest.Config) -> None:
    slowness()  # measured here, before the tests themselves are the load
    # Ray starts its workers with niceness 15: next to eight busy processes they would hardly run at all.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Ray starts a worker for each CPU before any is asked for. Without the job's environment they are of no use here.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    _remove_temporary_files_afterwards(config)


def _remove_temporary_files_afterwards(config: pytest.Config) -> None:
    """Also what processes leave behind that tests kill, and the logs of Ray's sessions; pytest's own folders stay."""
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    folder = tempfile.mkdtemp(prefix="t-", dir="/tmp")  # short: Ray's sockets lie in it
    os.environ["TMPDIR"] = os.environ["RAY_TMPDIR"] = folder
    # Fixed, not found again at the first use: that may be while a test has changed TMPDIR for processes that it starts.
    tempfile.tempdir = folder
    offer_forks(Path(folder, "forks"))
    offer_shared_folder(Path(folder))
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_report_header(config: pytest.Config) -> str:
    return f"limits: {slowness():g} times those of the reference machine (tests/waiting.py)"


@pytest.hookimpl(tryfirst=True)  # before pytest itself selects by marker
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for name, fixtures in STARTED_BY.items():
            if fixtures & set(item.fixturenames):
                item.add_marker(name)
        if config.getoption("timeout") is None:
            marker = item.get_closest_marker("timeout")
            limit = marker.args[0] if marker else float(config.getini("timeout"))
            item.add_marker(pytest.mark.timeout(patience(limit)), append=False)
    items.sort(key=lambda item: rank_of(item.nodeid))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # Not for the session: while it is there, the thread has an event loop, and no test could start another.
    from chromium import launched

    with launched() as started:
        yield started


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if "browser" in report.keywords]
    if skipped:
        from chromium import MISSING

        terminalreporter.section("NO BROWSER", red=True, bold=True)
        terminalreporter.line(f"{MISSING}: {len(skipped)} tests of pages did not run.", red=True, bold=True)
