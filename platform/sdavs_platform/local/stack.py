"""The local stack: an MLflow server and a Ray head, started once, reused by later runs, stopped together."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from sdavs_platform.config.paths import state_folder
from sdavs_platform.local import mlflow_server, ray_head, serve_api, services, state
from sdavs_platform.local.state import MLflowState, RayState, StackState
from sdavs_platform.local.token import send_token_if_any

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Preferred ports on 127.0.0.1; if one is taken, the next free one is used."""

    ray: int = 6379
    dashboard: int = 8265
    mlflow: int = 5000
    endpoint: int = 8000


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The running MLflow server and Ray head."""

    mlflow: MLflowState
    ray: RayState


MAX_RAY_STARTS = 3
"""On a busy machine a part of Ray may give up waiting for another after 30 s, which no setting changes; `ray start
--block` then ends all of them."""


def up(*, ports: Ports, home: Path | None = None) -> Stack:
    """Start missing services and reuse running ones; waits until both respond.

    If MLFLOW_TRACKING_URI is set, that MLflow is used and none is started.

    Raises:
        RuntimeError: a service did not come up; with the end of its log.
    """
    home = home or state_folder()
    send_token_if_any()
    known = state.read(home)
    # Servers that were not started here are looked up each time; they may have ended.
    mlflow = known.mlflow if known.mlflow and known.mlflow.service else _foreign_mlflow()
    if mlflow is None:
        mlflow = mlflow_server.start(home=home, port=ports.mlflow)
    # Written before waiting, so that `down` knows what to end whatever happens next.
    state.write(home, known.model_copy(update={"mlflow": mlflow}))

    def start_ray() -> RayState:
        started = ray_head.start(
            home=home, port=ports.ray, dashboard_port=ports.dashboard, mlflow_uri=mlflow.uri
        )
        state.write(home, known.model_copy(update={"mlflow": mlflow, "ray": started}))
        return started

    ray = known.ray if known.ray and known.ray.service else _foreign_ray(ports)
    attempts = 1 if ray else MAX_RAY_STARTS
    ray = ray or start_ray()
    state.write(home, known.model_copy(update={"mlflow": mlflow, "ray": ray}))
    if mlflow.service:
        mlflow_server.wait(mlflow, home=home)
    while True:
        try:
            ray_head.wait(ray, home=home)
            return Stack(mlflow=mlflow, ray=ray)
        except RuntimeError:
            attempts -= 1
            if attempts == 0 or (ray.service and ray.service.is_alive()):
                raise
        logger.warning("Ray ended during its start, as it does on a busy machine; starting it again")
        ray = start_ray()


def down(*, home: Path | None = None) -> None:
    """End what this checkout started, and nothing else."""
    home = home or state_folder()
    send_token_if_any()
    known = state.read(home)
    if known.ray and known.ray.service:
        logger.info("stopping Ray (%s) with its jobs and the endpoint", known.ray.dashboard)
        known.ray.service.stop()
        ray_head.forget(known.ray)
    elif known.ray and known.endpoint:
        logger.info(
            "removing the endpoint from Ray at %s, which was not started here and keeps running",
            known.ray.dashboard,
        )
        serve_api.remove(known.ray.dashboard)
    if known.mlflow and known.mlflow.service:
        logger.info("stopping MLflow (%s)", known.mlflow.uri)
        known.mlflow.service.stop()
    services.stop(known, home=home)
    if known == StackState():
        logger.info("nothing to stop")
    state.write(home, StackState())


def _foreign_mlflow() -> MLflowState | None:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    return MLflowState(uri=uri, service=None) if uri else None


def _foreign_ray(ports: Ports) -> RayState | None:
    """A Ray that the user started by hand, if the demo can use it."""
    head = ray_head.find(port=ports.ray, dashboard_port=ports.dashboard)
    if head is None:
        return None
    cpus = ray_head.num_cpus(head)
    if cpus < ray_head.MIN_CPUS:
        unfit = f"has {cpus:g} CPUs and the demo needs {ray_head.MIN_CPUS}"
    elif others := serve_api.other_applications(head.dashboard):
        unfit = f"serves {', '.join(others)}, which a deployment would remove"
    else:
        logger.info("using Ray at %s, which was already running", head.dashboard)
        return head
    logger.info("Ray at %s %s; starting another one", head.dashboard, unfit)
    return None
