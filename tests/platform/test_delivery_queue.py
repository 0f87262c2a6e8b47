"""Metrics of a training while its MLflow server goes away and comes back: all arrive, once and in order."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from databases import mlflow_database
from running import kill_family
from sdavs_platform.tracking.client import experiment_id, mlflow_client
from sdavs_platform.tracking.runs import TrainingRun
from sdavs_platform.training.telemetry.delivery_queue import DeliveryQueue
from sdavs_platform.training.telemetry.phase_timers import gpu_readings
from waiting import patience, wait_until

PORT = 8031
URI = f"http://127.0.0.1:{PORT}"


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Starts the one MLflow server of this test, again and again on the same database."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    # As in `local.mlflow_server`: without it every start has seven processes more.
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    started: list[subprocess.Popen[bytes]] = []
    database = mlflow_database(tmp_path)

    def start() -> subprocess.Popen[bytes]:
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(PORT)),
            *("--backend-store-uri", database, "--workers", "1"),
            *("--artifacts-destination", str(tmp_path / "artifacts")),
        ]
        with (tmp_path / "server.log").open("ab") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        wait_until(answers, what=f"MLflow at {URI}", details=(tmp_path / "server.log").read_text)
        return started[-1]

    try:
        yield start
    finally:
        for server in started:
            kill_family(server.pid)


def answers() -> bool:
    try:
        return httpx.get(f"{URI}/health").is_success
    except httpx.HTTPError:
        return False


def stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
        server.wait(patience(30))


def logged(run: TrainingRun) -> list[int]:
    return [point.step for point in run.client.get_metric_history(run.run_id, "train/loss")]


def test_points_wait_for_an_unavailable_mlflow_server_and_arrive_once_and_in_order(start):
    server = start()
    client = mlflow_client(URI)
    run = TrainingRun(uri=URI, run_id=client.create_run(experiment_id(client, "queue")).info.run_id)
    drawn: list[str] = []
    queue = DeliveryQueue(run, points=[(1, {"train/loss": 1.0})], retry_seconds=0.2)
    queue.send()
    wait_until(lambda: not queue.unsent(), what="the first point to be delivered")
    stop(server)
    for step in (2, 3):
        queue.put((step, {"train/loss": 1.0 / step}))
        queue.send(lambda step=step: drawn.append(f"picture {step}"))
    time.sleep(1)
    assert [step for step, _ in queue.unsent()] == [2, 3]
    start()
    queue.put((4, {"train/loss": 0.25}))
    queue.close()
    assert logged(run) == [1, 2, 3, 4]
    assert drawn[-1] == "picture 3"


def test_points_arrive_in_time_also_between_validations(tmp_path):
    uri = mlflow_database(tmp_path)
    client = mlflow_client(uri)
    run = TrainingRun(uri=uri, run_id=client.create_run(experiment_id(client, "timer")).info.run_id)
    queue = DeliveryQueue(run, points=[], send_seconds=0.1)
    queue.put((1, {"train/loss": 1.0}))
    wait_until(lambda: not queue.unsent(), what="the timer to send the point")
    assert [point.value for point in client.get_metric_history(run.run_id, "train/loss")] == [1.0]
    queue.close()


def test_a_gpu_whose_driver_knows_no_utilisation_costs_that_reading_only(monkeypatch):
    def refuse() -> int:
        raise RuntimeError("NVMLError_NotSupported: Not Supported")

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2e9)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    assert gpu_readings() == {"gpu/memory_gb": 2.0}
    monkeypatch.setattr(torch.cuda, "utilization", lambda: 50)
    assert gpu_readings() == {"gpu/memory_gb": 2.0, "gpu/utilization": 50.0}


@pytest.mark.slow
def test_what_mlflow_refuses_ends_the_training_instead_of_being_tried_for_ever(tmp_path):
    uri = mlflow_database(tmp_path)
    run = TrainingRun(uri=uri, run_id="no-such-run")
    queue = DeliveryQueue(run, points=[(1, {"train/loss": 1.0})])
    with pytest.raises(Exception, match="no-such-run"):
        queue.close()
