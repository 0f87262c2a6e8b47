"""An MLflow server on the loopback address, for the runs, the registry and their pages."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sdavs_platform.local import processes
from sdavs_platform.local.state import MLflowState

START_LIMIT_S = 180.0


@dataclass(frozen=True, kw_only=True)
class Stores:
    """Where a server keeps runs and artifacts: words of `mlflow server`, and what they need in the environment."""

    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    on_postgres: bool = False


def sqlite(home: Path) -> Stores:
    """Database and artifacts where jobs without a server put them (`sdavs_platform.tracking.client`).

    The server does not proxy artifacts: so a run made through it can be read without it and the other way.
    """
    return Stores(
        words=(
            *("--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}"),
            *("--no-serve-artifacts", "--default-artifact-root", (home / "mlartifacts").as_uri()),
        )
    )


def start(*, home: Path, port: int, say: Callable[[str], None], stores: Stores | None = None) -> MLflowState:
    """Start a server on `port` or the next free one, on sqlite if not told otherwise; returns at once, see `wait`."""
    stores = stores or sqlite(home)
    chosen = processes.next_free(port)
    if chosen != port:
        say(f"port {port} is taken by another process; MLflow goes to {chosen}")
    home.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(chosen)),
        *("--workers", "1", *stores.words),
    ]
    # MLflow's job runner serves features that are not used here, at the price of several processes.
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    told = os.environ | quiet | dict(stores.environment)
    service = processes.start(command, cwd=home, environment=told, log=_log(home))
    return MLflowState(uri=f"http://127.0.0.1:{chosen}", service=service, on_postgres=stores.on_postgres)


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
