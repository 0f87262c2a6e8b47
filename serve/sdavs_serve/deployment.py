"""Putting the endpoint on a Ray cluster, and waiting until it serves.

`declaration` is Serve's declarative config of the endpoint, the same for `deploy` and for a KubeRay RayService. Serve
compares it with what runs: the same config again changes nothing and restarts no replica.
"""

import logging
import time
from typing import Any

import httpx
from sdavs_platform.config.serve import ServeConfig
from sdavs_platform.local import serve_api
from sdavs_platform.local.serve_api import APPLICATION
from sdavs_platform.tracking.client import tracking_uri
from sdavs_platform.tracking.registry import resolve

from sdavs_serve.http.keys import KeyFile, keys_required
from sdavs_serve.rollout.state import RolloutState

logger = logging.getLogger(__name__)

DASHBOARD = "http://127.0.0.1:8265"

POLL_S = 0.3


def declaration(config: ServeConfig) -> dict[str, Any]:
    """Serve's declarative config, for its REST API and for a RayService's `serveConfigV2`.

    Every key is written out, defaults too: an image with other defaults then changes nothing in a running endpoint.
    """
    application = {
        "name": APPLICATION,
        "route_prefix": "/",
        "import_path": "sdavs_serve.app:build",
        "args": config.model_dump(mode="json"),
    }
    http_options = {"host": config.host, "port": config.port}
    return {"proxy_location": "EveryNode", "http_options": http_options, "applications": [application]}


def deploy(config: ServeConfig, *, dashboard: str = DASHBOARD) -> str:
    """Deploy the endpoint on a running Ray cluster; one that already runs with this config is left as it is.

    Serve keeps running when the caller ends. Other applications of the cluster's Serve are removed.

    Args:
        config: the endpoint's config.
        dashboard: address of the cluster's dashboard.

    Returns:
        The endpoint's address, for `wait_ready`.

    Raises:
        ValueError: the model is not registered; keys are required and there are none; or the dashboard refuses.
        ConnectionError: there is no dashboard.
    """
    resolve(config.model_uri, uri=config.tracking_uri)
    keys = KeyFile.of(config)
    if keys_required(config) and not keys.entries():
        raise ValueError(
            f"host: {config.host} is reachable from other machines, and {keys.path} has no API key; "
            "create one with `python jobs/keys.py add --scope admin`"
        )
    # Replicas have neither this process's environment nor its working directory, so addresses are resolved here.
    resolved = {"tracking_uri": tracking_uri(config.tracking_uri), "keys_file": str(keys.path.resolve())}
    config = config.model_copy(update=resolved)
    serve_api.deploy_applications(dashboard, declaration(config))
    host = "127.0.0.1" if config.host == "0.0.0.0" else config.host
    return f"http://{host}:{config.port}"


def wait_ready(
    address: str,
    config: ServeConfig,
    *,
    dashboard: str = DASHBOARD,
    timeout_s: float = 900.0,
    api_key: str | None = None,
) -> None:
    """Wait until the endpoint serves the version that `model_uri` means; the rollout's history is logged.

    Args:
        api_key: for admins, where the endpoint requires keys.

    Raises:
        RuntimeError: Serve gave up, or the version was refused; the message says why.
        TimeoutError: it took longer than `timeout_s`.
    """
    wanted = resolve(config.model_uri, uri=config.tracking_uri).version
    deadline = time.monotonic() + timeout_s
    status, logged_until = "not started", time.time()
    while time.monotonic() < deadline:
        application = serve_api.applications(dashboard).get(APPLICATION, {})
        status = application.get("status", status)
        if status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise RuntimeError(f"the endpoint did not start: {_reason(application)}")
        state = _rollout(address, api_key) if status == "RUNNING" else None
        if state:
            for event in (event for event in state.history if event.at > logged_until):
                logger.info("version %s: %s", event.version, event.what)
                logged_until = event.at
            if state.refused and state.refused.version == wanted:
                raise RuntimeError(
                    f"version {wanted} was refused at {state.refused.gate}: {state.refused.reason}"
                )
            if state.served and state.served.version == wanted and state.phase in ("idle", "bake"):
                return
        time.sleep(POLL_S)
    raise TimeoutError(f"the endpoint is not ready after {timeout_s:g} s; Serve reports {status}")


def _rollout(address: str, api_key: str | None) -> RolloutState | None:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    answer = httpx.get(f"{address}/v1/rollout", headers=headers, timeout=10)
    if answer.status_code in (401, 403):
        raise RuntimeError("the endpoint runs; to follow its rollout set SDAVS_API_KEY to a key for admins")
    return RolloutState.model_validate_json(answer.content) if answer.is_success else None


def _reason(application: dict) -> str:
    messages = [deployment["message"] for deployment in application.get("deployments", {}).values()]
    return " ".join(filter(None, [application.get("message"), *messages])) or application["status"]
