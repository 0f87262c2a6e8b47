"""The local stack: an MLflow server and a Ray head, started once, reused by later runs, stopped together."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sdavs_platform.config.paths import state_folder
from sdavs_platform.local import mlflow_server, ray_head, serve_api, services, state
from sdavs_platform.local.state import MLflowState, RayState, StackState
from sdavs_platform.local.token import send_token_if_any

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Ports:
    """First choice on 127.0.0.1; the next free one is taken where another process was faster."""

    ray: int = 6379
    dashboard: int = 8265
    mlflow: int = 5000
    endpoint: int = 8000


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What is up."""

    mlflow: MLflowState
    ray: RayState


def up(*, ports: Ports, say: Say, home: Path | None = None) -> Stack:
    """Start what is missing, reuse what runs; returns when both answer.

    MLFLOW_TRACKING_URI, if set, is used instead of a server of our own.

    Raises:
        RuntimeError: a service did not come up; with the end of its log.
    """
    home = home or state_folder()
    send_token_if_any()
    known = state.read(home)
    # What somebody else runs is looked up anew each time; it may have gone.
    mlflow = known.mlflow if known.mlflow and known.mlflow.service else _foreign_mlflow()
    if mlflow is None:
        mlflow = mlflow_server.start(home=home, port=ports.mlflow, say=say)
    # Written before waiting: whatever happens next, `down` knows what to end.
    state.write(home, known.model_copy(update={"mlflow": mlflow}))
    ray = known.ray if known.ray and known.ray.service else _foreign_ray(ports, say)
    if ray is None:
        ray = ray_head.start(
            home=home, port=ports.ray, dashboard_port=ports.dashboard, mlflow_uri=mlflow.uri, say=say
        )
    state.write(home, known.model_copy(update={"mlflow": mlflow, "ray": ray}))
    if mlflow.service:
        mlflow_server.wait(mlflow, home=home)
    ray_head.wait(ray, home=home)
    return Stack(mlflow=mlflow, ray=ray)


def down(*, say: Say, home: Path | None = None) -> None:
    """End what this checkout started, and nothing else."""
    home = home or state_folder()
    send_token_if_any()
    known = state.read(home)
    if known.ray and known.ray.service:
        say(f"stopping Ray ({known.ray.dashboard}) with its jobs and the endpoint")
        known.ray.service.stop()
        ray_head.forget(known.ray)
    elif known.ray and known.endpoint:
        say(
            f"removing the endpoint from Ray at {known.ray.dashboard}, which goes on: it was not started here"
        )
        serve_api.remove(known.ray.dashboard)
    if known.mlflow and known.mlflow.service:
        say(f"stopping MLflow ({known.mlflow.uri})")
        known.mlflow.service.stop()
    services.stop(known, home=home, say=say)
    if known == StackState():
        say("nothing to stop")
    state.write(home, StackState())


def _foreign_mlflow() -> MLflowState | None:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    return MLflowState(uri=uri, service=None) if uri else None


def _foreign_ray(ports: Ports, say: Say) -> RayState | None:
    """A Ray that the user started by hand, if it is fit for the demo."""
    head = ray_head.find(port=ports.ray, dashboard_port=ports.dashboard)
    if head is None:
        return None
    cpus = ray_head.num_cpus(head)
    if cpus < ray_head.MIN_CPUS:
        unfit = f"has {cpus:g} CPUs and the demo needs {ray_head.MIN_CPUS}"
    elif others := serve_api.other_applications(head.dashboard):
        unfit = f"serves {', '.join(others)}, which deploying here would remove"
    else:
        say(f"using the Ray at {head.dashboard} that runs already")
        return head
    say(f"the Ray at {head.dashboard} {unfit}; leaving it alone and starting another one")
    return None
