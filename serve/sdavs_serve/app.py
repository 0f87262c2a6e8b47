"""The Serve application: which deployments it has and what each may use. `deployment.py` puts it on a cluster.

    serve run sdavs_serve.app:build model_uri=models:/sdavs@champion     # in the foreground

Deployed once, it follows the alias by itself.
"""

import logging
from typing import Any

import ray
from ray import serve
from sdavs_platform.config.serve import ServeConfig

from sdavs_serve.http.ingress import Ingress
from sdavs_serve.http.webhook import MAX_READING
from sdavs_serve.inference.predictor import Predictor
from sdavs_serve.rollout.controller import RolloutController
from sdavs_serve.rollout.state import SLOTS

logger = logging.getLogger("ray.serve")

INGRESS, CONTROLLER, MODEL = "ingress", "rollout", "model-{slot}"

SURPLUS = 32

HEALTH: dict[str, Any] = {"health_check_period_s": 2, "health_check_timeout_s": 10}
"""How Serve checks replicas: one that has not responded to three checks in a row, each within the time-out, is
replaced, that is after half a minute; with Serve's default of 30 s it would be a minute and a half. Checks run on an
event loop that model passes and loads do not occupy: they have threads of their own. What holds them up is an import
of torch, which takes seconds, and once; three times in a row ten seconds is a process that is stopped or cut off."""

SMALL_CPUS = 0.1
"""CPU cores reserved for an ingress replica and for the controller. Actors that reserve none land on Ray's head, too,
which on Kubernetes offers no CPUs in order to be left alone."""


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
            graceful_shutdown_timeout_s=config.timeout_s,
            **HEALTH,
            **_replicas(config),
        )(Predictor).bind(config, slot)
        for slot in SLOTS
    }
    controller = serve.deployment(name=CONTROLLER, ray_actor_options={"num_cpus": SMALL_CPUS}, **HEALTH)(
        RolloutController
    ).bind(config, slots)
    # The ingress itself refuses surplus requests, with a body that names the limit, so Serve must not refuse earlier:
    # whatever uploads, requests and webhooks hold, SURPLUS slots are left for probes and refusals.
    ingress = serve.deployment(
        name=INGRESS,
        num_replicas=config.ingress_replicas,
        max_ongoing_requests=config.max_uploads + config.max_requests + MAX_READING + SURPLUS,
        ray_actor_options={"num_cpus": SMALL_CPUS},
        graceful_shutdown_timeout_s=config.timeout_s,
        **HEALTH,
    )(Ingress)
    return ingress.bind(config, slots, controller)


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
