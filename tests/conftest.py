"""How pytest-xdist shares the tests out: file by file, and tests/serve in one go, for the sake of its one endpoint."""

import pytest
from xdist.scheduler import LoadFileScheduling


class OneEndpoint(LoadFileScheduling):
    """Each process that met one of those files would start Ray, MLflow and an endpoint of its own."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/serve" if nodeid.startswith("tests/serve/") else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log) -> LoadFileScheduling | None:
    return OneEndpoint(config, log) if config.getvalue("dist") == "loadfile" else None
