"""What holds for all tests: limits that fit the machine, and how pytest-xdist hands the files out."""

import pytest
from waiting import patience, slowness
from xdist.scheduler import LoadFileScheduling


class OneEndpoint(LoadFileScheduling):
    """File by file, and tests/serve in one go: each process that got one of its files would start an endpoint."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/serve" if nodeid.startswith("tests/serve/") else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log) -> LoadFileScheduling | None:
    return OneEndpoint(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_configure(config: pytest.Config) -> None:
    slowness()  # measured here, before the tests themselves are the load


def pytest_report_header(config: pytest.Config) -> str:
    return f"limits: {slowness():g} times those of the reference machine (tests/waiting.py)"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("timeout") is not None:  # chosen by hand
        return
    for item in items:
        marker = item.get_closest_marker("timeout")
        limit = marker.args[0] if marker else float(config.getini("timeout"))
        item.add_marker(pytest.mark.timeout(patience(limit)), append=False)
