"""Which Ray cluster a command joins: by its address, with a token, next to others; and what it says without one."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from running import process
from sdavs_platform.cluster import _address_to_join, worker_environment
from sdavs_platform.config.cli import load_config
from waiting import patience, wait_until

ROOT = Path(__file__).resolve().parents[2]

JOB = """
import os
import sys
sys.path.insert(0, "jobs")
from _job import run_job

def main():
    import ray
    from sdavs_platform.cluster import joined_cluster
    from sdavs_platform.config.cli import load_config

    env = {"NCCL_SOCKET_IFNAME": "eth1"}
    with joined_cluster(load_config([{"cluster": {"address": sys.argv[1], "env": env}}])):
        print(ray.get_runtime_context().gcs_address)
        names = ("RAY_ADDRESS", "NCCL_SOCKET_IFNAME", "FI_PROVIDER")
        print(*ray.get(ray.remote(lambda: [os.environ[name] for name in names]).remote()))

run_job(main)
"""
"""Joins a cluster and prints its address, here and as a worker has it, and the worker's network settings."""


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def _no_cluster_in_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


pytestmark = pytest.mark.usefixtures("_no_cluster_in_the_environment")


def test_an_address_where_nothing_listens_is_refused_at_once(closed_port, monkeypatch):
    with pytest.raises(
        ValueError, match=rf"^cluster\.address: no Ray cluster at 127\.0\.0\.1:{closed_port}: "
    ):
        _address_to_join(f"127.0.0.1:{closed_port}")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port}")
    with pytest.raises(ValueError, match=r"^RAY_ADDRESS: no Ray cluster at "):
        _address_to_join(None)


@pytest.mark.parametrize("address", ["somewhere", "http://127.0.0.1:8265", "127.0.0.1:", "ray://host:10001"])
def test_what_is_no_address_is_refused_with_what_is_allowed(address):
    with pytest.raises(
        ValueError, match=r"is not an address of a Ray cluster; allowed: HOST:PORT, auto, local"
    ):
        _address_to_join(address)


def test_without_an_address_the_cluster_of_this_machine_is_joined_but_not_one_that_has_ended(
    closed_port, tmp_path, caplog
):
    assert _address_to_join(None) == _address_to_join("auto") == "auto"
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{closed_port}\n")
    assert _address_to_join(None) is None
    assert f"the Ray cluster at 127.0.0.1:{closed_port} has ended" in caplog.text


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_a_port_that_another_program_listens_on_is_refused_at_once(answer):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"no Ray cluster at {address}: another program listens there"):
            _address_to_join(address)
        thread.join()


def test_a_grpc_server_counts_as_rays():
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    assert _address_to_join(f"127.0.0.1:{port}") == f"127.0.0.1:{port}"
    server.stop(None)


def test_local_is_a_private_cluster():
    assert _address_to_join("local") is None


@pytest.fixture(scope="module")
def shell() -> Iterator[dict[str, str]]:
    """The environment of a user with a token and a running head, whose address is in it as HEAD."""
    home = Path(
        tempfile.mkdtemp(prefix="sdavs-", dir="/tmp")
    )  # not tmp_path: Ray limits the length of its paths
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    user = kept | {
        "HOME": str(home),
        "SDAVS_HOME": str(home),
        "RAY_TMPDIR": str(home),
        "OMP_NUM_THREADS": "1",
    }
    port = 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray = str(Path(sys.executable).with_name("ray"))
    options = ["--head", "--block", "--port", str(port), "--num-cpus", "1", "--include-dashboard", "false"]
    log = home / "log"
    try:
        with (
            log.open("w") as output,
            process([ray, "start", *options], env=user, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT),
        ):
            wait_until(lambda: "Ray runtime started" in log.read_text(), what="Ray to start")
            yield user | {"HEAD": f"127.0.0.1:{port}"}
    finally:
        shutil.rmtree(home, ignore_errors=True)


def joins(address: str, user: dict[str, str], **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", JOB, address],
        env=user | changes,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=patience(200),
    )


def test_a_job_joins_a_cluster_with_a_token_by_its_address(shell):
    ran = joins(shell["HEAD"], shell, FI_PROVIDER="efa")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[2:] == ["eth1", "efa"]
    assert ran.stdout.split()[0].endswith(shell["HEAD"].rpartition(":")[2])


def test_the_workers_of_a_private_cluster_ask_that_cluster_and_not_another_one_of_this_machine(shell):
    ran = joins("local", shell, FI_PROVIDER="efa")
    assert ran.returncode == 0, ran.stderr
    here, worker = ran.stdout.split()[:2]
    assert here == worker
    assert here.rpartition(":")[2] != shell["HEAD"].rpartition(":")[2]


def test_workers_get_the_network_settings_of_the_driver_and_of_the_config(monkeypatch):
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth0")
    monkeypatch.setenv("FI_PROVIDER", "efa")
    monkeypatch.setenv("OF_ANOTHER_PROGRAM", "1")
    config = load_config(
        [{"cluster": {"env": {"NCCL_DEBUG": "INFO", "NCCL_SOCKET_IFNAME": "eth1", "NCCL_IB_DISABLE": 1}}}]
    )
    environment = worker_environment(config)
    assert environment["FI_PROVIDER"] == "efa"
    assert environment["NCCL_SOCKET_IFNAME"] == "eth1"
    assert environment["NCCL_DEBUG"] == "INFO"
    assert environment["NCCL_IB_DISABLE"] == "1"
    assert "OF_ANOTHER_PROGRAM" not in environment
