"""MLflow clients with explicit addresses, without MLflow's global state and without its chatter."""

import logging
import os
from pathlib import Path

from mlflow import MlflowClient

from sdavs_platform.config.paths import state_folder


def tracking_uri(configured: str | None = None) -> str:
    """The configured address, else MLFLOW_TRACKING_URI, else sqlite in the state folder."""
    if uri := configured or os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    return f"sqlite:///{state_folder() / 'mlflow.db'}"


def mlflow_client(uri: str) -> MlflowClient:
    """A client for runs and registry at `uri`; creates the folder of a sqlite file."""
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for chatty in ("alembic", "mlflow.store.db.utils", "mlflow.store.model_registry.abstract_store"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment_id(client: MlflowClient, name: str) -> str:
    """The id of an experiment, created on first use. With sqlite its artifacts are stored next to the database."""
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return experiment.experiment_id
    uri = client.tracking_uri
    location = None
    if uri.startswith("sqlite:///"):
        location = (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" / name).as_uri()
    return client.create_experiment(name, artifact_location=location)
