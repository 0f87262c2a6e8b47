"""Users, permissions and the webhook of an MLflow server with basic auth. May be run again at any time.

    MLFLOW_TRACKING_URI=http://mlflow:5000 MLFLOW_TRACKING_USERNAME=admin MLFLOW_TRACKING_PASSWORD=... \\
      TRAIN_PASSWORD=... SERVE_PASSWORD=... WEBHOOK_SECRET=... WEBHOOK_URL=... python configure.py

Makes the registered model as admin, so that no job owns it, and two users that may edit it and nothing of each
other's: `train` registers versions, `serve` notes on a version how its rollout went. A password that differs from
the environment's is changed: this is how passwords are rotated.
"""

import contextlib
import os
import time
from collections.abc import Iterator

import requests
from mlflow import MlflowClient
from mlflow.entities.webhook import WebhookEvent, WebhookEventStr, WebhookStatus
from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client

MODEL = "sdavs"
USERS = {"train": "TRAIN_PASSWORD", "serve": "SERVE_PASSWORD"}
WEBHOOK = "sdavs-endpoint"
EVENTS: list[WebhookEventStr | WebhookEvent] = ["model_version_alias.created", "model_version_alias.deleted"]


def main() -> None:
    uri = os.environ["MLFLOW_TRACKING_URI"]
    wait_for(uri)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    with unless_there():
        client.create_registered_model(MODEL)
        print(f"made the registered model {MODEL}")
    auth = get_app_client("basic-auth", tracking_uri=uri)
    for user, variable in USERS.items():
        set_user(auth, uri, user, os.environ[variable])
    set_webhook(client, url=os.environ["WEBHOOK_URL"], secret=os.environ["WEBHOOK_SECRET"])


@contextlib.contextmanager
def unless_there() -> Iterator[None]:
    """Context manager that ignores MLflow's error for something that exists already."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def wait_for(uri: str, *, seconds: float = 300.0) -> None:
    """Wait until the server responds to its probe.

    Raises:
        TimeoutError: it did not.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if requests.get(f"{uri}/health", timeout=5).ok:
                return
        except requests.ConnectionError:
            pass
        time.sleep(2)
    raise TimeoutError(f"{uri} did not respond within {seconds:g} s")


def set_user(auth, uri: str, user: str, password: str) -> None:
    """A user with this password who may edit the model."""
    try:
        auth.get_user(user)
    except MlflowException:
        auth.create_user(user, password)
        print(f"made the user {user}")
    else:
        known = requests.get(
            f"{uri}/api/2.0/mlflow/registered-models/get",
            params={"name": MODEL},
            auth=(user, password),
            timeout=30,
        )
        if known.status_code == 401:
            auth.update_user_password(user, password)
            print(f"changed the password of {user}")
    with unless_there():
        auth.grant_user_permission(user, "registered_model", MODEL, "EDIT")


def set_webhook(client: MlflowClient, *, url: str, secret: str) -> None:
    """The webhook that notifies the endpoint when an alias moves; without it, the next poll notices."""
    for webhook in client.list_webhooks():
        if webhook.name == WEBHOOK:
            client.update_webhook(
                webhook.webhook_id, url=url, events=EVENTS, secret=secret, status=WebhookStatus.ACTIVE
            )
            return
    client.create_webhook(WEBHOOK, url=url, events=EVENTS, secret=secret)
    print(f"made the webhook to {url}")


if __name__ == "__main__":
    main()
