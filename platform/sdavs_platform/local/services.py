"""`make services`: MLflow on Postgres with its artifacts proxied to an S3 server, on this machine."""

import json
import logging
import secrets
from dataclasses import dataclass
from pathlib import Path

from sdavs_model.files import write_atomically
from sdavs_platform.config.paths import state_folder
from sdavs_platform.local import mlflow_server, postgres, processes, state
from sdavs_platform.local.mlflow_server import Stores
from sdavs_platform.local.object_store import ObjectStore
from sdavs_platform.local.state import ServerState, StackState

logger = logging.getLogger(__name__)

BUCKETS = ("mlflow", "sdavs")
"""Buckets for MLflow's artifacts, and for the user's data and checkpoints."""

MLFLOW_STORES = (
    *("--backend-store-uri", "postgresql+psycopg2:///mlflow"),
    *("--serve-artifacts", "--artifacts-destination", "s3://mlflow"),
)


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Preferred ports on 127.0.0.1; if one is taken, the next free one is used."""

    mlflow: int = 5000
    postgres: int = 5432
    s3: int = 9000


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Keys and password of the servers: generated once for a state folder, readable by its owner alone."""

    key: str
    """Access key of the S3 server."""
    secret: str
    """Secret of `key`."""
    database_password: str


def run(ports: Ports) -> dict[str, str]:
    """`up`, one command at a time.

    Raises:
        RuntimeError: see `up`.
    """
    home = state_folder()
    with state.lock(home, command="make services"):
        environment = up(ports=ports, home=home)
    logger.info("MLflow, Postgres and the S3 server are running; buckets: %s", ", ".join(BUCKETS))
    return environment


def up(*, ports: Ports, home: Path) -> dict[str, str]:
    """Start missing services and reuse running ones; waits until all of them respond.

    Returns:
        The environment variables for their users. The S3 keys are in a file, in AWS's own format.

    Raises:
        RuntimeError: Postgres is not installed, an MLflow on sqlite runs here, or a service did not come up.
    """
    postgres.programs()  # refuses before anything is started
    known = state.read(home)
    if known.mlflow and known.mlflow.service and not known.mlflow.on_postgres:
        raise RuntimeError(
            f"MLflow at {known.mlflow.uri} runs on sqlite for this folder (`make demo`); stop it with `make stop`"
        )
    folder = home / "services"
    keys = _keys(folder)
    known = _with_postgres(known, folder, keys, ports)
    state.write(home, known)
    known = _with_object_store(known, folder, keys, ports)
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
        stores = Stores(options=MLFLOW_STORES, environment=environment, on_postgres=True)
        mlflow = mlflow_server.start(home=home, port=ports.mlflow, stores=stores)
        known = known.model_copy(update={"mlflow": mlflow})
        state.write(home, known)
    assert known.mlflow
    mlflow_server.wait(known.mlflow, home=home)
    return {"MLFLOW_TRACKING_URI": known.mlflow.uri} | s3


def stop(known: StackState, *, home: Path) -> None:
    """End the database and the S3 server; MLflow, which uses them, must have ended before."""
    if known.postgres:
        logger.info("stopping Postgres (127.0.0.1:%d)", known.postgres.port)
        postgres.stop(home / "services" / "postgres")
    if known.object_store:
        logger.info("stopping the S3 server (127.0.0.1:%d)", known.object_store.port)
        known.object_store.service.stop()


def _with_object_store(known: StackState, folder: Path, keys: Keys, ports: Ports) -> StackState:
    if known.object_store:
        return known
    port = processes.choose_port(ports.s3, "the S3 server")
    service = _store(keys, port).start(folder / "s3")
    return known.model_copy(update={"object_store": ServerState(port=port, service=service)})


def _store(keys: Keys, port: int) -> ObjectStore:
    return ObjectStore(host="127.0.0.1", port=port, key=keys.key, secret=keys.secret)


def _with_postgres(known: StackState, folder: Path, keys: Keys, ports: Ports) -> StackState:
    if known.postgres:
        return known
    port = processes.choose_port(ports.postgres, "Postgres")
    service = postgres.start(folder=folder / "postgres", port=port, password=keys.database_password)
    return known.model_copy(update={"postgres": ServerState(port=port, service=service)})


def _keys(folder: Path) -> Keys:
    file = folder / "keys.json"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        keys = {"key": secrets.token_hex(10), "secret": secrets.token_hex(20)}
        content = json.dumps(keys | {"database_password": secrets.token_urlsafe(24)})
        write_atomically(file, content, private=True)
    return Keys(**json.loads(file.read_text()))
