"""The Serve application: what runs where, and how to put it on a cluster.

    serve run sdavs_serve.app:build model_uri=models:/sdavs@champion     # in the foreground

Deployed once, it follows the alias by itself. `deploy`, which `jobs/deploy.py` calls, goes through Serve's
declarative API: the same config again changes nothing and restarts nobody.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import httpx
import ray
from ray import serve
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
from sdavs_platform.config.serve import ServeConfig
from sdavs_platform.tracking.client import tracking_uri
from sdavs_platform.tracking.registry import resolve

from sdavs_serve.declaration import APPLICATION, declaration
from sdavs_serve.http.ingress import Ingress
from sdavs_serve.http.keys import KeyFile, keys_required
from sdavs_serve.inference.predictor import Predictor
from sdavs_serve.rollout.controller import RolloutController
from sdavs_serve.rollout.state import SLOTS, RolloutState

logger = logging.getLogger("ray.serve")

INGRESS, CONTROLLER, MODEL = "ingress", "rollout", "model-{slot}"


def build(args: dict) -> serve.Application:
    """The application of a config, for `serve run`, `serve deploy` and KubeRay's `serveConfigV2`.

    Args:
        args: keys and values of `ServeConfig`; text is converted, unknown keys are refused.

    Raises:
        ValueError: a key or value is wrong.
    """
    config = _for_this_cluster(ServeConfig.model_validate(args))
    slots = {
        slot: serve.deployment(
            name=MODEL.format(slot=slot),
            # Batches form inside the replica, so it must be allowed to hold more than one batch of requests.
            max_ongoing_requests=max(config.max_batch_frames, 2 * config.max_requests),
            max_queued_requests=config.max_queued,
            ray_actor_options={"num_cpus": config.num_cpus, "num_gpus": config.num_gpus},
            health_check_period_s=2,
            **_replicas(config),
        )(Predictor).bind(config, slot)
        for slot in SLOTS
    }
    controller = serve.deployment(
        name=CONTROLLER, ray_actor_options={"num_cpus": 0}, health_check_period_s=2
    )(RolloutController).bind(config, slots)
    # The ingress refuses by itself, with a body that names the limit; Serve only must not refuse earlier. The
    # surplus keeps the probes answering.
    ingress = serve.deployment(
        name=INGRESS,
        num_replicas=config.ingress_replicas,
        max_ongoing_requests=4 * config.max_requests + 16,
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=2,
    )(Ingress)
    return ingress.bind(config, slots, controller)


def deploy(config: ServeConfig, *, dashboard: str = "http://127.0.0.1:8265") -> str:
    """Put the endpoint on a running Ray cluster; one that is there already with this config is left as it is.

    Serve keeps running when the caller ends. Other applications of the cluster's Serve are removed.

    Args:
        config: the endpoint's config.
        dashboard: address of the cluster's dashboard.

    Returns:
        The endpoint's address, for `wait_ready`.

    Raises:
        ValueError: the model is not registered; or keys are required and there are none.
    """
    resolve(config.model_uri, uri=config.tracking_uri)
    keys = KeyFile.of(config)
    if keys_required(config) and not keys.entries():
        raise ValueError(
            f"host: {config.host} can be reached by others and {keys.path} holds no API key; "
            "make one with `python jobs/keys.py add --scope admin`"
        )
    # Replicas have neither this process's environment nor its folder, so addresses travel resolved.
    resolved = {"tracking_uri": tracking_uri(config.tracking_uri), "keys_file": str(keys.path.resolve())}
    config = config.model_copy(update=resolved)
    ServeSubmissionClient(dashboard).deploy_applications(declaration(config))
    host = "127.0.0.1" if config.host == "0.0.0.0" else config.host
    return f"http://{host}:{config.port}"


def wait_ready(
    address: str,
    config: ServeConfig,
    *,
    dashboard: str = "http://127.0.0.1:8265",
    timeout_s: float = 900.0,
    say: Callable[[str], None] = lambda line: None,
    api_key: str | None = None,
) -> None:
    """Wait until the endpoint serves the version that `model_uri` means.

    Args:
        say: told each line of the rollout's history.
        api_key: for admins, where the endpoint requires keys.

    Raises:
        RuntimeError: Serve gave up, or the version was refused; the message says why.
        TimeoutError: it took longer than `timeout_s`.
    """
    wanted = resolve(config.model_uri, uri=config.tracking_uri).version
    client = ServeSubmissionClient(dashboard)
    begun = time.time()
    deadline = time.monotonic() + timeout_s
    status, told = "not started", begun
    while time.monotonic() < deadline:
        application = client.get_serve_details()["applications"].get(APPLICATION, {})
        status = application.get("status", status)
        if status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise RuntimeError(f"the endpoint did not start: {_reason(application)}")
        state = _rollout(address, api_key) if status == "RUNNING" else None
        if state:
            for event in (event for event in state.history if event.at > told):
                say(f"version {event.version}: {event.what}")
                told = event.at
            if state.refused and state.refused.version == wanted:
                raise RuntimeError(
                    f"version {wanted} was refused at {state.refused.gate}: {state.refused.reason}"
                )
            if state.served and state.served.version == wanted and state.phase == "idle":
                return
        time.sleep(0.3)
    raise TimeoutError(f"the endpoint is not ready after {timeout_s:g} s; Serve says {status}")


def _rollout(address: str, api_key: str | None) -> RolloutState | None:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    answer = httpx.get(f"{address}/v1/rollout", headers=headers, timeout=10)
    if answer.status_code in (401, 403):
        raise RuntimeError("the endpoint runs; to follow its rollout set SDAVS_API_KEY to a key for admins")
    return RolloutState.model_validate_json(answer.content) if answer.is_success else None


def _for_this_cluster(config: ServeConfig) -> ServeConfig:
    """The config without GPUs where the cluster has none and `cpu_fallback` allows it."""
    if not (config.num_gpus and config.cpu_fallback and ray.is_initialized()):
        return config
    if ray.cluster_resources().get("GPU", 0):
        return config
    logger.warning("num_gpus: %g, but this cluster has no GPU; serving on CPUs", config.num_gpus)
    return config.model_copy(update={"num_gpus": 0.0})


def _replicas(config: ServeConfig) -> dict:
    if config.min_replicas == config.max_replicas:
        return {"num_replicas": config.min_replicas}
    autoscaling = {
        "min_replicas": config.min_replicas,
        "max_replicas": config.max_replicas,
        "target_ongoing_requests": config.max_requests / 2,
        "upscale_delay_s": config.scale_up_after_s,
        "downscale_delay_s": config.scale_down_after_s,
    }
    return {"autoscaling_config": autoscaling}


def _reason(application: dict) -> str:
    messages = [deployment["message"] for deployment in application.get("deployments", {}).values()]
    return " ".join(filter(None, [application.get("message"), *messages])) or application["status"]
