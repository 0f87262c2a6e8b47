"""Serve's REST API on a Ray dashboard: which applications run, deploy, remove.

https://docs.ray.io/en/latest/serve/api/index.html#serve-rest-api
"""

from typing import Any

import httpx

from sdavs_platform.ray_internals import dashboard_headers

APPLICATION = "sdavs"
"""Name of the endpoint's Serve application."""

PATH = "/api/serve/applications/"

TIMEOUT_S = 60.0

START_S = 300.0
"""Seconds for a deployment, which starts Serve; that takes minutes on a busy machine."""


def applications(dashboard: str) -> dict[str, Any]:
    """Serve's applications by name, with status, message and deployments; none where Serve does not run.

    Args:
        dashboard: address of the Ray dashboard, `http://HOST:PORT`.

    Raises:
        ConnectionError: nothing answers there.
        ValueError: the dashboard refuses the request; the message says why.
    """
    return _request("GET", dashboard).json().get("applications", {})


def deploy_applications(dashboard: str, config: dict[str, Any]) -> None:
    """Make Serve run exactly the applications of a declarative config. Raises as `applications`."""
    _request("PUT", dashboard, config)


def other_applications(dashboard: str) -> list[str]:
    """Names of the Serve applications other than the endpoint; deploying the endpoint would remove them."""
    return [name for name in applications(dashboard) if name != APPLICATION]


def remove(dashboard: str) -> None:
    """Shut down Serve with all its applications; Ray keeps running. Raises as `applications`."""
    _request("DELETE", dashboard)


def _request(method: str, dashboard: str, config: dict[str, Any] | None = None) -> httpx.Response:
    url = dashboard.rstrip("/") + PATH
    try:
        timeout = httpx.Timeout(START_S if method == "PUT" else TIMEOUT_S, connect=TIMEOUT_S)
        answer = httpx.request(method, url, json=config, headers=dashboard_headers(), timeout=timeout)
    except httpx.UnsupportedProtocol as error:
        raise ValueError(f"Ray dashboard {dashboard}: write the address as http://HOST:PORT") from error
    except httpx.TransportError as error:
        raise ConnectionError(f"no Ray dashboard responds at {dashboard}: {error}") from error
    if not answer.is_success:
        raise ValueError(f"Ray dashboard {dashboard}: {answer.status_code} {answer.text.strip()[:500]}")
    return answer
