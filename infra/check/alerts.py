"""Make the alerts fire on a running system: a real Prometheus, Ray, training and endpoint, with injected faults.

    .venv/bin/python infra/check/alerts.py training endpoint        (Debian: apt-get install prometheus)

The rules are those of infra/monitoring/rules.yaml, with minutes turned into seconds and nothing else changed. The
training's loader is slowed down, then the whole training is stopped; the endpoint gets more requests than it admits
and a model replica with little CPU time, then loses its folder for temporary files. It logs when each alert begins to
fire and when it ends. About two minutes each on two cores; cleans up at the end.
"""

import argparse
import contextlib
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
from autoscale import free_ports
from live_prometheus import Alerts, prometheus, wait_for

ROOT = Path(__file__).resolve().parents[2]
TRAINING = """\
data: {{root: {folder}/data, test_splits: [], num_workers: 1}}
model: {{backbone: test_resnet, image_size: 64, width: 16, num_heads: 2, vggish_width: 0.125}}
training: {{epochs: 100000, val_every: 100000, batch_size: 2, log_every: 1}}
cluster: {{num_workers: 1}}
tracking: {{registered_model: null}}
storage: {{uri: {folder}/results}}
"""
MAX_REQUESTS = 40
NUM_CLIENTS = 44
"""More than are admitted, so that some are turned away all the time."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("what", nargs="+", choices=("training", "endpoint"), help="what gets into trouble")
    what = parser.parse_args().what
    if not shutil.which("prometheus"):
        print("skipped: prometheus is not installed (Debian: prometheus)")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # in order, so that nothing is left behind
    # Ray's sockets lie in it, and their paths may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="alerts-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        os.environ |= {
            "SDAVS_HOME": name,
            "RAY_TMPDIR": name,
            "TMPDIR": f"{name}/tmp",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_metrics_report_interval_ms": "3000",
        }
        for variable in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            os.environ.pop(variable, None)
        return cause_faults(folder, what)


def cause_faults(folder: Path, what: list[str]) -> int:
    """Start everything, cause the faults of each subject in order, stop everything; returns the exit status."""
    from sdavs_platform.local import stack

    ray, dashboard, mlflow, endpoint, own = free_ports(5)
    ports = stack.Ports(ray=ray, dashboard=dashboard, mlflow=mlflow)
    try:
        up = stack.up(ports=ports, home=folder)
        os.environ["MLFLOW_TRACKING_URI"] = up.mlflow.uri
        with prometheus(folder, port=own, endpoint=f"127.0.0.1:{endpoint}") as alerts:
            assert up.ray.service
            head = up.ray.service.pid
            if "training" in what:
                trouble_a_training(folder, alerts, head=head, address=up.ray.gcs_address)
            if "endpoint" in what:
                trouble_an_endpoint(folder, alerts, head=head, port=endpoint, dashboard=up.ray.dashboard)
            broken = alerts.broken_rules()
            print(f"rules that could not be evaluated: {', '.join(broken) or 'none'}")
            return 1 if broken or alerts.missed else 0
    finally:
        stack.down(home=folder)


def named(head: int, title: str) -> list[psutil.Process]:
    """Ray's processes below its head by a part of their title."""
    found = []
    for process in psutil.Process(head).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if title in " ".join(process.cmdline()):
                found.append(process)
    return found


@contextlib.contextmanager
def slowed(
    processes: Callable[[], list[psutil.Process]], *, works_s: float, rests_s: float
) -> Iterator[None]:
    """These processes work for a moment and rest for a longer one, again and again."""
    over = threading.Event()

    def slow() -> None:
        while not over.wait(works_s):
            stopped = processes()
            send(stopped, signal.SIGSTOP)
            over.wait(rests_s)
            send(stopped, signal.SIGCONT)

    thread = threading.Thread(target=slow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def send(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def trouble_a_training(folder: Path, alerts: Alerts, *, head: int, address: str) -> None:
    """A slow loader, then a standstill, then its end."""
    from sdavs_model.data.realav.build import RealAVConfig, prepare

    prepare(
        folder / "data",
        RealAVConfig(
            num_train=64, num_val=2, num_test_new_scenes=1, num_test_strict=1, num_test_strict_wide=0, size=64
        ),
    )
    (folder / "train.yaml").write_text(TRAINING.format(folder=folder))
    command = [sys.executable, str(ROOT / "jobs/train.py"), "--config", str(folder / "train.yaml")]
    with (folder / "train.log").open("w") as log:
        training = subprocess.Popen(
            [*command, "--name", "watched", "--cluster.address", address], stdout=log, stderr=log
        )
    try:
        wait_for(lambda: " step 5/" in (folder / "train.log").read_text(), limit_s=120)

        def workers() -> list[psutil.Process]:
            return named(head, "ray::RayTrainWorker")

        def loaders() -> list[psutil.Process]:
            below = (child for worker in workers() for child in worker.children(recursive=True))
            return [process for process in below if process.is_running()]

        alerts.log("a training runs")
        time.sleep(25)
        alerts.log("its loader gets a thirtieth of its time")
        with slowed(loaders, works_s=0.1, rests_s=3.0):
            alerts.wait("LoadingSlow", "StepTimeRegression")
        alerts.log("all of it is stopped (SIGSTOP)")
        stopped = workers() + loaders()
        send(stopped, signal.SIGSTOP)
        alerts.wait("TrainingStalled")
        send(stopped, signal.SIGCONT)
        alerts.log("the process continues")
        alerts.wait("TrainingStalled", "LoadingSlow", fire=False)
    finally:
        training.terminate()
        training.wait(90)
    alerts.log(f"the training is stopped, and has ended with {training.returncode}")
    time.sleep(35)
    alerts.wait("TrainingStalled", fire=False, limit_s=1)


def trouble_an_endpoint(folder: Path, alerts: Alerts, *, head: int, port: int, dashboard: str) -> None:
    """Too much load, then errors of its own."""
    from sdavs_platform.config.tree import ServeConfig
    from sdavs_platform.local.sample import write_video
    from sdavs_platform.tracking.registry import promote
    from sdavs_serve.deployment import deploy, wait_ready

    from sdavs_model.golden import standard_clip

    write_video(standard_clip(5), folder / "clip.mp4")
    promote("sdavs", register_a_model(folder), uri=None)
    # One window a pass, so that requests wait for one another.
    config = ServeConfig(
        port=port, max_requests=MAX_REQUESTS, max_batch_frames=5, timeout_s=300, max_queued=100
    )
    alerts.log("no endpoint yet")
    alerts.wait("EndpointDown")
    address = deploy(config, dashboard=dashboard)
    wait_ready(address, config, dashboard=dashboard)
    alerts.log("the endpoint serves")
    alerts.wait("EndpointDown", fire=False)

    def replicas() -> list[psutil.Process]:
        return named(head, "ray::ServeReplica:sdavs:model-")

    video = (folder / "clip.mp4").read_bytes()
    alerts.log(f"{NUM_CLIENTS} clients, {MAX_REQUESTS} admitted; the model gets a twentieth of its time")
    with (
        asked(address, video, num_clients=NUM_CLIENTS),
        slowed(replicas, works_s=0.12, rests_s=2.0),
    ):
        alerts.wait("EndpointSheds", "EndpointQueue", "EndpointSlow", limit_s=150)
    alerts.log("no clients any more")
    alerts.wait("EndpointSheds", "EndpointQueue", "EndpointSlow", fire=False)
    with asked(address, video, num_clients=2):
        alerts.log("two clients; the folder for temporary files is away")
        (folder / "tmp").rename(folder / "away")
        alerts.wait("EndpointErrors")
        (folder / "away").rename(folder / "tmp")
        alerts.log("it is back")
        alerts.wait("EndpointErrors", fire=False)


@contextlib.contextmanager
def asked(address: str, video: bytes, *, num_clients: int) -> Iterator[None]:
    """This many clients send the clip repeatedly; a refused client waits half a second."""
    over = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=300) as client:
            while not over.is_set():
                answer = client.post(
                    f"{address}/v1/segment",
                    files={"video": ("clip.mp4", video, "video/mp4")},
                    headers={"Cache-Control": "no-cache"},
                )
                over.wait(0 if answer.is_success else 0.5)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(num_clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def register_a_model(folder: Path) -> int:
    """A model of random weights as a version of `sdavs`."""
    from sdavs_platform.tracking.client import experiment_id, mlflow_client, tracking_uri
    from sdavs_platform.tracking.registry import register_artifact

    from sdavs_model import SDAVSConfig, build_model, save_artifact

    config = SDAVSConfig(backbone="pvt_v2_b0", image_size=64, width=32, num_heads=4, vggish_width=0.125)
    artifact = folder / "artifact"
    artifact.mkdir()
    save_artifact(
        artifact,
        model=build_model(config).eval(),
        classes=["background", "sounding object"],
        metrics={},
        lineage={"data_digest": "none"},
    )
    uri = tracking_uri(None)
    client = mlflow_client(uri)
    run = client.create_run(experiment_id(client, "alerts")).info.run_id
    return register_artifact(artifact, name="sdavs", config=config, run_id=run, tags={}, uri=uri)


if __name__ == "__main__":
    logging.getLogger("httpx").setLevel(logging.WARNING)
    sys.exit(main())
