"""A Ray head with dashboard on this machine: reuse the one that runs, or start one."""

import json
import os
import sys
from pathlib import Path

import psutil

from sdavs_platform.config.paths import CHECKOUT
from sdavs_platform.local import processes
from sdavs_platform.local.state import RayState
from sdavs_platform.local.token import require_token
from sdavs_platform.ray_internals import (
    FORCE_STOP_UNHEALTHY,
    PROXY_MIDDLEWARES,
    dashboard_headers,
    latest_cluster_file,
)

START_LIMIT_S = 180.0

MIN_CPUS = 3
"""Two training workers and one endpoint replica."""

LOGICAL_CPUS = max(4, os.cpu_count() or 1)
"""CPUs that our Ray offers. Our choice: at least 4, because on two cores an idle endpoint must not keep a training
from starting; the operating system divides the real cores."""

OBJECT_STORE_BYTES = 512 * 1024**2
"""Our choice: clips are passed as files, so Ray's default, 30 % of the memory, would be unused."""


def start(*, home: Path, port: int, dashboard_port: int, mlflow_uri: str) -> RayState:
    """Start a head whose jobs run in the checkout with this Python; returns at once, see `wait`.

    The dashboard listens on 127.0.0.1. Ray opens its RPC ports on every interface and has no switch for
    that; the token guards them.
    """
    require_token()
    chosen = processes.choose_port(port, "Ray")
    chosen_dashboard = processes.choose_port(dashboard_port, "Ray's dashboard")
    command = [
        *(_executable("ray"), "start", "--head", "--block", "--disable-usage-stats"),
        *("--port", str(chosen), "--dashboard-host", "127.0.0.1", "--dashboard-port", str(chosen_dashboard)),
        *("--dashboard-agent-listen-port", str(processes.next_free(52365))),
        *("--ray-client-server-port", str(processes.next_free(20001))),
        *("--num-cpus", str(LOGICAL_CPUS), "--object-store-memory", str(OBJECT_STORE_BYTES)),
    ]
    service = processes.start(
        command, cwd=CHECKOUT, environment=_environment(home, mlflow_uri), log=_log(home)
    )
    return RayState(
        dashboard=f"http://127.0.0.1:{chosen_dashboard}", gcs_address=f"127.0.0.1:{chosen}", service=service
    )


def wait(head: RayState, *, home: Path) -> None:
    """Wait until the head accepts jobs.

    Raises:
        RuntimeError: it ended, or did not answer in time; with the end of its log.
    """
    processes.wait_until(
        lambda: accepts_jobs(head.dashboard),
        "Ray",
        service=head.service,
        log=_log(home),
        limit_s=START_LIMIT_S,
    )


def accepts_jobs(dashboard: str) -> bool:
    """Whether the dashboard responds and lists a live node: before that, submitting a job fails."""
    reply = processes.ask(f"{dashboard}/nodes?view=summary", dashboard_headers())
    nodes = json.loads(reply)["data"]["summary"] if reply else []
    return any(node["raylet"].get("state") == "ALIVE" for node in nodes)


def find(*, port: int, dashboard_port: int) -> RayState | None:
    """The head that the user started by hand in this folder with this environment on these ports, if any.

    It is recognised by its dashboard's command line. A Ray of another environment would run our jobs with other
    packages, one of another folder would not find jobs/train.py, and one that a `ray.init()` started (on another
    port) ends with its program.
    """
    wanted = (f"--port={dashboard_port}", "--gcs-address=")
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        ours = any(
            word.startswith(sys.prefix) and word.endswith("ray/dashboard/dashboard.py") for word in words
        )
        if not ours or wanted[0] not in words or process.cwd() != str(CHECKOUT):
            continue
        address = next(word.removeprefix(wanted[1]) for word in words if word.startswith(wanted[1]))
        if address.endswith(f":{port}"):
            return RayState(dashboard=f"http://127.0.0.1:{dashboard_port}", gcs_address=address, service=None)
    return None


def num_cpus(head: RayState) -> float:
    """All CPUs of the cluster, free or in use."""
    from ray.util.state import list_nodes

    nodes = list_nodes(address=head.dashboard, detail=True)
    return sum(node.resources_total.get("CPU", 0.0) for node in nodes if node.state == "ALIVE")


def forget(head: RayState) -> None:
    """Remove Ray's record of the latest cluster if it is this one: `ray.init()` would wait for a dead address."""
    note = latest_cluster_file()
    if note.is_file() and note.read_text().strip().endswith(head.gcs_address.removeprefix("127.0.0.1")):
        note.unlink()


def _executable(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _environment(home: Path, mlflow_uri: str) -> dict[str, str]:
    """The environment of every job on this head: this `python`, this MLflow, this state folder."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_ADDRESS")}
    inherited.pop("RAY_API_SERVER_ADDRESS", None)
    return inherited | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "MLFLOW_TRACKING_URI": mlflow_uri,
        "SDAVS_HOME": str(home),
        # Ray would set CUDA_VISIBLE_DEVICES="" in processes that lease no GPU, and hide it from their children.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",  # time to save a checkpoint; Ray's default is 3 seconds
        PROXY_MIDDLEWARES: "sdavs_serve.http.proxy:middlewares",
        FORCE_STOP_UNHEALTHY: "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads would starve the rest of a small machine
    }


def _log(home: Path) -> Path:
    return home / "logs" / "ray.log"
