"""The endpoint on the local Ray: deploy it through Serve's declarative API, wait for it, remove it."""

import time
from collections.abc import Mapping
from typing import Any

from sdavs_platform.local import processes

APPLICATION = "sdavs"
START_LIMIT_S = 240.0


def deploy(dashboard: str, *, port: int, args: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """Deploy `sdavs_serve.app:build` and return its address once it runs.

    The same arguments twice change nothing; other arguments replace the replicas. Other applications on the
    same Ray keep running, and a Serve that already listens keeps its port.

    Raises:
        RuntimeError: Serve reports that the application failed, with its message; or it took too long.
    """
    client = _client(dashboard)
    details = client.get_serve_details()
    others = [
        app["deployed_app_config"]
        for name, app in details.get("applications", {}).items()
        if name != APPLICATION and app.get("deployed_app_config")
    ]
    http = details.get("http_options") or {}
    if not details.get("proxies"):
        http = {"host": "127.0.0.1", "port": processes.next_free(port)}
    application = {
        "name": APPLICATION,
        "route_prefix": "/",
        "import_path": "sdavs_serve.app:build",
        "args": dict(args),
        "runtime_env": {"env_vars": dict(environment)},
    }
    options = {"host": http["host"], "port": http["port"]}
    client.deploy_applications({"http_options": options, "applications": [*others, application]})
    _wait(client)
    return f"http://127.0.0.1:{options['port']}"


def remove(dashboard: str) -> None:
    """Take the application off a Ray that goes on running, and Serve with it if nothing else is deployed."""
    client = _client(dashboard)
    details = client.get_serve_details()
    others = [
        app["deployed_app_config"]
        for name, app in details.get("applications", {}).items()
        if name != APPLICATION and app.get("deployed_app_config")
    ]
    if others:
        client.deploy_applications({"http_options": details["http_options"], "applications": others})
    else:
        client.delete_applications()


def _wait(client: Any) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        application = client.get_serve_details()["applications"].get(APPLICATION, {})
        status = application.get("status", "NOT_STARTED")
        if status == "RUNNING":
            return
        if status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise RuntimeError(f"the endpoint did not start ({status}): {application.get('message', '')}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"the endpoint is still {status} after {START_LIMIT_S:.0f} s")
        time.sleep(0.5)


def _client(dashboard: str) -> Any:
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    return ServeSubmissionClient(dashboard)
