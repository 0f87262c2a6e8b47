"""An MLflow server on the loopback address, for the runs, the registry and their pages."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sdavs_platform.local import processes
from sdavs_platform.local.state import MLflowState

START_LIMIT_S = 180.0


@dataclass(frozen=True, kw_only=True)
class Stores:
    """Where a server keeps runs and artifacts: options of `mlflow server`, and the environment that they need."""

    options: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    on_postgres: bool = False


def sqlite(home: Path) -> Stores:
    """Database and artifacts where jobs without a server put them (`sdavs_platform.tracking.client`).

    The server does not proxy artifacts, so runs made through it can be read without it, and the other way round.
    """
    return Stores(
        options=(
            *("--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}"),
            *("--no-serve-artifacts", "--default-artifact-root", (home / "mlartifacts").as_uri()),
        )
    )


def start(*, home: Path, port: int, stores: Stores | None = None) -> MLflowState:
    """Start a server on `port` or the next free one, by default on sqlite; returns at once, see `wait`."""
    stores = stores or sqlite(home)
    chosen = processes.choose_port(port, "MLflow")
    home.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(chosen)),
        *("--workers", "1", *stores.options),
    ]
    # MLflow's job runner is for features that are not used here, and costs several processes.
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment = os.environ | quiet | dict(stores.environment)
    service = processes.start(command, cwd=home, environment=environment, log=_log(home))
    return MLflowState(uri=f"http://127.0.0.1:{chosen}", service=service, on_postgres=stores.on_postgres)


def wait(server: MLflowState, *, home: Path) -> None:
    """Return when the server answers.

    Raises:
        RuntimeError: it ended, or did not answer in time; with the end of its log.
    """
    processes.wait_until(
        lambda: processes.ask(f"{server.uri}/health") is not None,
        "the MLflow server",
        service=server.service,
        log=_log(home),
        limit_s=START_LIMIT_S,
    )


def _log(home: Path) -> Path:
    return home / "logs" / "mlflow.log"
