"""An MLflow server on the loopback address, for the runs, the registry and their pages."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sdavs_platform.local import processes
from sdavs_platform.local.state import MLflowState

START_LIMIT_S = 180.0


def start(*, home: Path, port: int, say: Callable[[str], None]) -> MLflowState:
    """Start a server on `port` or the next free one; returns at once, see `wait`.

    Database and artifacts lie where jobs without a server put them (`sdavs_platform.tracking.client`), and the
    server does not proxy artifacts: so a run made through the server can be read without it and the other way.
    """
    chosen = processes.next_free(port)
    if chosen != port:
        say(f"port {port} is taken by another process; MLflow goes to {chosen}")
    home.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(chosen)),
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}"),
        *("--no-serve-artifacts", "--default-artifact-root", (home / "mlartifacts").as_uri()),
    ]
    # MLflow's job runner serves features that are not used here, at the price of several processes.
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    service = processes.start(command, cwd=home, environment=os.environ | quiet, log=_log(home))
    return MLflowState(uri=f"http://127.0.0.1:{chosen}", service=service)


def wait(server: MLflowState, *, home: Path) -> None:
    """Return when the server answers.

    Raises:
        RuntimeError: it ended, or did not answer in time; with the end of its log.
    """
    deadline = time.monotonic() + START_LIMIT_S
    while processes.ask(f"{server.uri}/health") is None:
        if server.service and not server.service.is_alive():
            raise RuntimeError(f"the MLflow server ended:\n{processes.tail(_log(home))}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"the MLflow server is silent; see {_log(home)}")
        time.sleep(0.3)


def _log(home: Path) -> Path:
    return home / "logs" / "mlflow.log"
