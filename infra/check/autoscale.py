"""Watch a training wait for nodes that an autoscaler starts: Ray's autoscaler v2 on nodes that are processes here.

    .venv/bin/python infra/check/autoscale.py

The head has no CPU, as on Kubernetes; jobs/train.py requests two workers of one CPU, and a node has one. Its nodes
come from Ray's own provider for tests: what requests them, waits and trains is what runs on a cluster. Meanwhile
everything that Ray exports is scraped: what the dashboards name of trainings and autoscalers must be in it. A minute
and a half on two cores; needs only the environment, and cleans up at the end.
"""

import contextlib
import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import requests
from promql import named_metrics

ROOT = Path(__file__).resolve().parents[2]
MB = 1024 * 1024
MAX_NODES = 2
IDLE_S = 12
TRAINING = """\
data: {{root: {folder}/data, test_splits: []}}
model: {{backbone: test_resnet, image_size: 32, width: 16, num_heads: 2, vggish_width: 0.125}}
training: {{epochs: 10, batch_size: 2, val_every: 10}}
cluster: {{num_workers: 2, autoscales: true, wait_seconds: 120}}
tracking: {{uri: "sqlite:///{folder}/mlflow.db", registered_model: null}}
storage: {{uri: {folder}/results}}
"""
FAMILIES = ("ray_cluster_", "ray_train_", "ray_sdavs_")


def main() -> int:
    from sdavs_model.data.realav.build import RealAVConfig, prepare

    # Ray reads them once, when it is imported.
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_SCHEDULER_EVENTS": "0",
    }
    # Ray's sockets lie in it, and their paths may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="scale-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        prepare(
            folder / "data",
            RealAVConfig(
                num_train=8,
                num_val=2,
                num_test_new_scenes=1,
                num_test_strict=1,
                num_test_strict_wide=0,
                size=32,
            ),
        )
        (folder / "train.yaml").write_text(TRAINING.format(folder=folder))
        with autoscaling_cluster(folder) as address:
            return watch(folder, address)


@contextlib.contextmanager
def autoscaling_cluster(folder: Path) -> Iterator[str]:
    """A head without CPUs and an autoscaler that may bring two nodes of one CPU; gives its address."""
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

    gcs, dashboard, client, autoscaler = free_ports(4)
    config = autoscaler_config(f"127.0.0.1:{gcs}", FAKE_HEAD_NODE_ID)
    (folder / "autoscaler.json").write_text(json.dumps(config))
    own = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "RAY_metrics_report_interval_ms": "2000",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "AUTOSCALER_METRIC_PORT": str(autoscaler),
    }
    command: list[str | Path] = [Path(sys.executable).with_name("ray"), "start", "--head", "--block"]
    command += [f"--temp-dir={folder}/ray", f"--autoscaling-config={folder}/autoscaler.json", "--num-cpus=0"]
    command += ["--node-ip-address=127.0.0.1", f"--port={gcs}", f"--object-store-memory={200 * MB}"]
    command += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    command += ["--dashboard-agent-listen-port=0"]
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log)
    try:
        yield f"127.0.0.1:{gcs}"
    finally:
        head.terminate()
        head.wait(60)
        # The nodes are no children of the head. Each process of theirs names the folder.
        for process in psutil.process_iter(["cmdline"]):
            if f"{folder}/ray" in " ".join(process.info["cmdline"] or []):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def autoscaler_config(gcs_address: str, head_node_id: str) -> dict:
    """The config that `ray up` would read, for Ray's provider of nodes that are processes."""
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "processes",
        "max_workers": MAX_NODES,
        "idle_timeout_minutes": IDLE_S / 60,
        "provider": {
            # As "external": Ray's wheel lacks the defaults of "fake_multinode".
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "launch_multiple": True,
            "head_node_id": head_node_id,
            "gcs_address": gcs_address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "cpu": {
                "resources": {"CPU": 1, "object_store_memory": 200 * MB},
                "node_config": {},
                "min_workers": 0,
                "max_workers": MAX_NODES,
            },
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
    } | {f"{name}_commands": [] for name in commands}


def free_ports(count: int) -> list[int]:
    """Ports on which nothing listens now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def watch(folder: Path, address: str) -> int:
    """Train, and log when nodes come and go; returns the exit status."""
    watcher = Watcher(folder, address)
    watcher.start()
    try:
        watcher.log("jobs/train.py requests two workers")
        command = [sys.executable, str(ROOT / "jobs/train.py"), "--config", str(folder / "train.yaml")]
        command += ["--name", "scale", "--cluster.address", address]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as training:
            assert training.stdout
            for line in training.stdout:
                if line.startswith(("train.py:", "waiting for", "scale:")):
                    watcher.log(line.rstrip())
                else:
                    print(f"         {line.rstrip()}", file=sys.stderr)
        watcher.log(f"jobs/train.py has ended with {training.returncode}")
        deadline = time.monotonic() + 10 * IDLE_S
        while watcher.counts[-1] and time.monotonic() < deadline:
            time.sleep(0.5)
    finally:
        watcher.stop()
    wanted = {name for name in named_metrics() if name.startswith(FAMILIES) and "_gpu_" not in name}
    missing = wanted - watcher.metrics
    print(
        f"metrics of trainings and autoscalers, without GPUs, that dashboards and alerts name: {len(wanted)}"
    )
    print(f"of these not exported: {', '.join(sorted(missing)) or 'none'}")
    came_and_went = max(watcher.counts) == MAX_NODES and watcher.counts[0] == watcher.counts[-1] == 0
    return 0 if training.returncode == 0 and came_and_went and not missing else 1


class Watcher(threading.Thread):
    """Counts nodes with a CPU and collects the names of what is exported, until it is stopped.

    Attributes:
        counts: the numbers of nodes, one after another.
        metrics: names of all samples that Prometheus would have got.
    """

    def __init__(self, folder: Path, address: str) -> None:
        super().__init__()
        self._targets = folder / "ray" / "prom_metrics_service_discovery.json"
        self._address = address
        self._over = threading.Event()
        self._began = time.monotonic()
        self.counts: list[int] = []
        self.metrics: set[str] = set()

    def start(self) -> None:
        """Join the cluster once its head responds, and start."""
        import ray

        deadline = time.monotonic() + 60
        while True:
            try:
                ray.init(address=self._address, logging_level=logging.ERROR, log_to_driver=False)
                break
            except ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
        self._began = time.monotonic()
        self._count()
        super().start()

    def stop(self) -> None:
        """End, and leave the cluster."""
        import ray

        self._over.set()
        self.join()
        ray.shutdown()

    def log(self, line: str) -> None:
        """Print it with the time since the beginning."""
        print(f"{time.monotonic() - self._began:4.0f} s  {line}", flush=True)

    def run(self) -> None:
        """The thread: count nodes and scrape metrics until stopped."""
        while not self._over.wait(0.5):
            self._count()
            self._scrape()

    def _count(self) -> None:
        import ray

        number = sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())
        if not self.counts or number != self.counts[-1]:
            self.log(f"nodes with a CPU: {number}")
            self.counts.append(number)

    def _scrape(self) -> None:
        # By Ray's own list for Prometheus, which does not have the very first seconds.
        for group in json.loads(self._targets.read_text()) if self._targets.exists() else []:
            for target in group["targets"]:
                # A node that has left stays in the list for a while.
                with contextlib.suppress(requests.RequestException):
                    lines = requests.get(f"http://{target}/metrics", timeout=5).text.splitlines()
                    self.metrics |= {
                        line.split("{")[0].split(" ")[0] for line in lines if line[:1] not in "#"
                    }


if __name__ == "__main__":
    sys.exit(main())
