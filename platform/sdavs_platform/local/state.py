"""The state file of the local stack: processes that were started, reused by the next run, ended by `make stop`."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from sdavs_model.files import write_atomically
from sdavs_platform.local.processes import Service

logger = logging.getLogger(__name__)


class MLflowState(BaseModel):
    """An MLflow server. `service` is None for one that was not started here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    uri: str
    service: Service | None
    on_postgres: bool = False
    """Started by `make services`; otherwise on sqlite."""


class ServerState(BaseModel):
    """A server on the loopback address that `make services` started."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    port: int
    service: Service


class RayState(BaseModel):
    """A Ray head. `service` is None for one that was not started here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dashboard: str
    gcs_address: str
    service: Service | None


class StackState(BaseModel):
    """The running processes that this checkout has started."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mlflow: MLflowState | None = None
    ray: RayState | None = None
    endpoint: str | None = None
    postgres: ServerState | None = None
    object_store: ServerState | None = None


def read(home: Path) -> StackState:
    """The recorded state without the services that have ended since; empty if nothing was recorded."""
    path = home / "state.json"
    if not path.is_file():
        return StackState()
    try:
        state = StackState.model_validate_json(path.read_text())
    except ValidationError as error:
        raise ValueError(f"{path}: not a state file of this version; remove it: {error}") from None
    mlflow, ray = state.mlflow, state.ray
    if mlflow and mlflow.service and not mlflow.service.is_alive():
        mlflow = None
    if ray and ray.service and not ray.service.is_alive():
        ray = None
    return StackState(
        mlflow=mlflow,
        ray=ray,
        endpoint=state.endpoint if ray else None,
        postgres=_alive(state.postgres),
        object_store=_alive(state.object_store),
    )


def _alive(server: ServerState | None) -> ServerState | None:
    return server if server and server.service.is_alive() else None


def write(home: Path, state: StackState) -> None:
    """Replace the state file in one step."""
    home.mkdir(parents=True, exist_ok=True)
    write_atomically(home / "state.json", state.model_dump_json(indent=2) + "\n")


@contextmanager
def lock(home: Path, *, command: str) -> Iterator[None]:
    """Hold the lock of a state folder; logs it if another `command` has to be waited for."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "demo.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another `%s` runs in %s; waiting for it to end", command, home)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
