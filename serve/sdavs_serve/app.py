"""The Serve application: what runs where, and how to put it on a cluster.

    serve run sdavs_serve.app:build model_uri=models:/sdavs@champion     # in the foreground

`deploy`, which `jobs/deploy.py` calls, goes through Serve's declarative API, because that one knows the
application from last time: a new model version changes `user_config` alone, and Serve hands it to the running
replicas. `serve.run` would restart them all.
"""

from __future__ import annotations

import time

import httpx
from ray import serve
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from sdavs_platform.config import ServeConfig
from sdavs_platform.tracking.client import tracking_uri
from sdavs_platform.tracking.registry import resolve

from sdavs_serve.ingress import Ingress
from sdavs_serve.messages import Target
from sdavs_serve.predictor import Predictor

APPLICATION = "sdavs"
MODEL = "model"
INGRESS = "ingress"


def build(args: dict) -> serve.Application:
    """The application of a config, for `serve run`, `serve deploy` and KubeRay's `serveConfigV2`.

    Args:
        args: keys and values of `ServeConfig`; text is converted, unknown keys are refused.

    Raises:
        ValueError: a key or value is wrong, or the model is not registered.
    """
    config = ServeConfig.model_validate(args)
    model = serve.deployment(
        name=MODEL,
        # Batches form inside the replica, so it must be allowed to hold more than one batch of requests.
        max_ongoing_requests=max(config.max_batch_frames, 2 * config.max_requests),
        ray_actor_options={"num_cpus": config.num_cpus, "num_gpus": config.num_gpus},
        user_config=target_of(config).model_dump(),
        **_replicas(config),
    )(Predictor).bind(config)
    # The ingress refuses by itself, with a body that names the limit; Serve only must not refuse earlier. The
    # surplus keeps the probes answering.
    ingress = serve.deployment(
        name=INGRESS,
        max_ongoing_requests=4 * config.max_requests + 16,
        ray_actor_options={"num_cpus": 0},
    )(Ingress)
    return ingress.bind(config, model)


def target_of(config: ServeConfig) -> Target:
    """The version that `model_uri` means right now.

    Raises:
        ValueError: there is none.
    """
    found = resolve(config.model_uri, uri=config.tracking_uri)
    alias = config.model_uri.partition("@")[2] or None
    return Target(name=found.name, version=found.version, alias=alias)


def deploy(config: ServeConfig, *, dashboard: str = "http://127.0.0.1:8265") -> str:
    """Put the endpoint on a running Ray cluster, or move it to the version that `model_uri` now means.

    Serve keeps running when the caller ends. Other applications of the cluster's Serve are removed.

    Args:
        config: the endpoint's config.
        dashboard: address of the cluster's dashboard.

    Returns:
        The endpoint's address, for `wait_ready`.

    Raises:
        ValueError: the model is not registered.
    """
    # Replicas have neither this process's environment nor its folder, so the address travels resolved.
    config = config.model_copy(update={"tracking_uri": tracking_uri(config.tracking_uri)})
    application = {
        "name": APPLICATION,
        "route_prefix": "/",
        "import_path": "sdavs_serve.app:build",
        "args": config.model_dump(mode="json"),
        "deployments": [{"name": MODEL, "user_config": target_of(config).model_dump()}],
    }
    http_options = {"host": config.host, "port": config.port}
    ServeSubmissionClient(dashboard).deploy_applications(
        {"proxy_location": "EveryNode", "http_options": http_options, "applications": [application]}
    )
    host = "127.0.0.1" if config.host == "0.0.0.0" else config.host
    return f"http://{host}:{config.port}"


def wait_ready(
    address: str, config: ServeConfig, *, dashboard: str = "http://127.0.0.1:8265", timeout_s: float = 120.0
) -> None:
    """Wait until the endpoint serves the version that `model_uri` means.

    Raises:
        RuntimeError: Serve gave up, or the version was refused; the message says why.
        TimeoutError: it took longer than `timeout_s`.
    """
    wanted = str(target_of(config).version)
    client = ServeSubmissionClient(dashboard)
    deadline = time.monotonic() + timeout_s
    state = "not started"
    while time.monotonic() < deadline:
        application = client.get_serve_details()["applications"].get(APPLICATION, {})
        state = application.get("status", state)
        if state in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise RuntimeError(f"the endpoint did not start: {_reason(application)}")
        if state == "RUNNING":
            status = httpx.get(f"{address}/v1/model", timeout=10)
            if status.is_success and status.json()["refused"]:
                raise RuntimeError(f"the endpoint keeps its model; {status.json()['refused']}")
            if status.is_success and status.json()["model"]["version"] == wanted:
                return
        time.sleep(0.2)
    raise TimeoutError(f"the endpoint is not ready after {timeout_s:g} s; Serve says {state}")


def _replicas(config: ServeConfig) -> dict:
    if config.min_replicas == config.max_replicas:
        return {"num_replicas": config.min_replicas}
    limits = {"min_replicas": config.min_replicas, "max_replicas": config.max_replicas}
    return {"autoscaling_config": limits | {"target_ongoing_requests": config.max_requests / 2}}


def _reason(application: dict) -> str:
    messages = [deployment["message"] for deployment in application.get("deployments", {}).values()]
    return " ".join(filter(None, [application.get("message"), *messages])) or application["status"]
