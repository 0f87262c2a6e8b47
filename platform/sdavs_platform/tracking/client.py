"""MLflow clients with explicit addresses, without MLflow's global state and without its chatter.

Importing MLflow takes seconds of CPU time, which a worker that sends nothing saves.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests

from sdavs_platform.config.paths import state_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""Our choice: how long a command waits for MLflow at its start; the restart of a server takes less."""
_RETRY_S = 2.0
_ANSWER_S = 5.0
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def tracking_uri(configured: str | None = None) -> str:
    """The configured address, else MLFLOW_TRACKING_URI, else sqlite in the state folder."""
    if uri := configured or os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    return f"sqlite:///{state_folder() / 'mlflow.db'}"


def mlflow_client(uri: str) -> MlflowClient:
    """A client for runs and registry at `uri`; creates the folder of a sqlite file."""
    from mlflow import MlflowClient

    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for chatty in ("alembic", "mlflow.store.db.utils", "mlflow.store.model_registry.abstract_store"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment_id(client: MlflowClient, name: str) -> str:
    """The id of an experiment, created on first use. With sqlite its artifacts are stored next to the database.

    Raises:
        ValueError: the experiment is deleted.
    """
    experiment = client.get_experiment_by_name(name)
    uri = client.tracking_uri
    if experiment is not None:
        if experiment.lifecycle_stage != "active":
            raise ValueError(
                f"tracking.experiment: {name!r} is deleted in MLflow at {without_credentials(uri)}; restore it "
                f"(mlflow experiments restore --experiment-id {experiment.experiment_id}) or choose another name"
            )
        return experiment.experiment_id
    location = None
    if uri.startswith("sqlite:///"):
        location = (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" / name).as_uri()
    return client.create_experiment(name, artifact_location=location)


def require_mlflow(uri: str, *, patience_s: float | None = None) -> None:
    """Wait until MLflow responds, with a warning at once and every ten seconds.

    Left to itself, MLflow's client retries every request silently for minutes.

    Args:
        patience_s: how long to wait; None for `PATIENCE_S`.

    Raises:
        ValueError: it did not respond.
    """
    patience_s = PATIENCE_S if patience_s is None else patience_s
    started = time.monotonic()
    warned_at = -10.0
    while reason := unreachable(uri):
        waited = time.monotonic() - started
        if waited >= patience_s:
            raise ValueError(f"tracking.uri: MLflow at {without_credentials(uri)} does not respond: {reason}")
        if waited - warned_at >= 10:
            warned_at = waited
            logger.warning(
                f"MLflow at {without_credentials(uri)} does not respond ({reason}); "
                f"trying again for {patience_s - waited:.0f} s"
            )
        time.sleep(min(_RETRY_S, patience_s))


def unreachable(uri: str) -> str | None:
    """Why MLflow does not respond within five seconds, in a few words; None if it does, or is a local file."""
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    try:
        if scheme in ("http", "https"):
            status = requests.get(f"{uri.rstrip('/')}/health", timeout=_ANSWER_S).status_code
            # From a proxy without a server behind it. Any other status, such as 401, comes from a server.
            return f"status {status}" if status in (502, 503, 504) else None
        if scheme in _DATABASE_PORTS and parts.hostname:
            port = parts.port or _DATABASE_PORTS[scheme]
            socket.create_connection((parts.hostname, port), timeout=_ANSWER_S).close()
    except requests.Timeout:
        return f"no answer within {_ANSWER_S:g} s"
    except requests.ConnectionError:
        return "no connection"
    except OSError as error:
        return str(error)
    return None


def log_or_warn(what: str, log: Callable[[], object], *, uri: str) -> bool:
    """Log results that are already printed or written; a failure is only a warning. Returns whether it worked.

    Args:
        what: what is logged, for the warning.
    """
    reason = unreachable(uri)
    if reason is None:
        try:
            log()
            return True
        # MLflow raises errors of its own, of HTTP, of SQL and of every kind of artifact storage.
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
    logger.warning(f"{what} could not be logged to MLflow at {without_credentials(uri)}: {reason}")
    return False


def runs_tagged(client: MlflowClient, experiments: list[str], tags: dict[str, str]) -> list[Run]:
    """The runs of some experiments that have all these tags, the newest first."""
    # MLflow's filters cannot express a text with both kinds of quotes, such as a folder's name.
    query = [f"tags.`{tag}` = {quoted(text)}" for tag, text in tags.items() if not {"'", '"'} <= set(text)]
    found = client.search_runs(
        experiments,
        " and ".join(query),
        max_results=1 if len(query) == len(tags) else 1000,
        order_by=["attributes.start_time DESC"],
    )
    return [run for run in found if tags.items() <= run.data.tags.items()]


def quoted(text: str) -> str:
    """A text for the filter of a search in MLflow.

    Raises:
        ValueError: it has both kinds of quotes, which MLflow's filters cannot express.
    """
    if "'" not in text:
        return f"'{text}'"
    if '"' not in text:
        return f'"{text}"'
    raise ValueError(f"{text}: MLflow cannot search for a name with both kinds of quotes")


def without_credentials(uri: str) -> str:
    """The address without user and password."""
    return re.sub(r"(?<=//)[^/@]*@", "", uri)
