"""What a team's platform has, on this machine: MLflow on Postgres, its artifacts proxied to a server that speaks S3."""

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sdavs_model.files import write_atomically
from sdavs_platform.config.paths import state_folder
from sdavs_platform.local import mlflow_server, postgres, processes, state
from sdavs_platform.local.mlflow_server import Stores
from sdavs_platform.local.object_store import ObjectStore
from sdavs_platform.local.state import ServerState, StackState

Say = Callable[[str], None]

BUCKETS = ("mlflow", "sdavs")
"""For the artifacts of MLflow, and for data and checkpoints of the user."""

MLFLOW_STORES = (
    *("--backend-store-uri", "postgresql+psycopg2:///mlflow"),
    *("--serve-artifacts", "--artifacts-destination", "s3://mlflow"),
)


@dataclass(frozen=True, kw_only=True)
class Ports:
    """First choice on 127.0.0.1; the next free one is taken where another process was faster."""

    mlflow: int = 5000
    postgres: int = 5432
    s3: int = 9000


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Drawn once for a state folder; readable by its owner alone."""

    key: str
    """Of the S3 server; `secret` belongs to it."""
    secret: str
    database_password: str


def up(*, ports: Ports, say: Say, home: Path | None = None) -> dict[str, str]:
    """Start what is missing, reuse what runs; returns when all answer.

    Returns:
        The environment of those who use them. Keys are named by their file, in AWS's own form.

    Raises:
        RuntimeError: Postgres is not installed, an MLflow on sqlite runs here, or a service did not come up.
    """
    home = home or state_folder()
    postgres.programs()
    known = state.read(home)
    if known.mlflow and known.mlflow.service and not known.mlflow.on_postgres:
        raise RuntimeError(
            f"the MLflow at {known.mlflow.uri} runs on sqlite for this folder (`make demo`); `make stop` ends it"
        )
    folder = home / "services"
    keys = _keys(folder)
    known = _with_postgres(known, folder, keys, ports, say)
    state.write(home, known)
    known = _with_object_store(known, folder, keys, ports, say)
    state.write(home, known)
    assert known.object_store
    assert known.postgres
    store = _store(keys, known.object_store.port)
    store.wait(known.object_store.service, folder=folder / "s3", buckets=BUCKETS)
    port, password = known.postgres.port, keys.database_password
    postgres.wait(known.postgres.service, folder=folder / "postgres", port=port, password=password)
    credentials = folder / "aws_credentials"
    login = f"[default]\naws_access_key_id = {keys.key}\naws_secret_access_key = {keys.secret}\n"
    write_atomically(credentials, login, private=True)
    s3 = {"AWS_ENDPOINT_URL": store.endpoint, "AWS_SHARED_CREDENTIALS_FILE": str(credentials)}
    if known.mlflow is None:
        environment = postgres.login(port=port, password=password) | s3
        stores = Stores(words=MLFLOW_STORES, environment=environment, on_postgres=True)
        mlflow = mlflow_server.start(home=home, port=ports.mlflow, say=say, stores=stores)
        known = known.model_copy(update={"mlflow": mlflow})
        state.write(home, known)
    assert known.mlflow
    mlflow_server.wait(known.mlflow, home=home)
    return {"MLFLOW_TRACKING_URI": known.mlflow.uri} | s3


def stop(known: StackState, *, home: Path, say: Say) -> None:
    """End the database and the S3 server; MLflow, which uses them, must have ended."""
    if known.postgres:
        say(f"stopping Postgres (127.0.0.1:{known.postgres.port})")
        postgres.stop(home / "services" / "postgres")
    if known.object_store:
        say(f"stopping the S3 server (127.0.0.1:{known.object_store.port})")
        known.object_store.service.stop()


def _with_object_store(known: StackState, folder: Path, keys: Keys, ports: Ports, say: Say) -> StackState:
    if known.object_store:
        return known
    port = _free(ports.s3, "the S3 server", say)
    service = _store(keys, port).start(folder / "s3")
    return known.model_copy(update={"object_store": ServerState(port=port, service=service)})


def _store(keys: Keys, port: int) -> ObjectStore:
    return ObjectStore(host="127.0.0.1", port=port, key=keys.key, secret=keys.secret)


def _with_postgres(known: StackState, folder: Path, keys: Keys, ports: Ports, say: Say) -> StackState:
    if known.postgres:
        return known
    port = _free(ports.postgres, "Postgres", say)
    service = postgres.start(folder=folder / "postgres", port=port, password=keys.database_password)
    return known.model_copy(update={"postgres": ServerState(port=port, service=service)})


def _free(port: int, what: str, say: Say) -> int:
    chosen = processes.next_free(port)
    if chosen != port:
        say(f"port {port} is taken by another process; {what} goes to {chosen}")
    return chosen


def _keys(folder: Path) -> Keys:
    file = folder / "keys.json"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        drawn = {"key": secrets.token_hex(10), "secret": secrets.token_hex(20)}
        content = json.dumps(drawn | {"database_password": secrets.token_urlsafe(24)})
        write_atomically(file, content, private=True)
    return Keys(**json.loads(file.read_text()))
