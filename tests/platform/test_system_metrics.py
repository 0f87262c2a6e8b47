"""Each node's load in MLflow under its own name, from made-up readings, and again after the server was away."""

import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.system_metrics.metrics import gpu_monitor
from sdavs_platform.training.telemetry import system_metrics
from sdavs_platform.training.telemetry.system_metrics import watch_node
from waiting import wait_until


class Server:
    """Stands for MLflow: away at the first question, running at the next two; then it does not answer."""

    def __init__(self) -> None:
        self.questions = 0
        self.points: list[dict[str, float]] = []

    def get_run(self, run_id: str) -> Any:
        self.questions += 1
        if self.questions == 2:
            raise ConnectionError("away")
        if self.questions > 4:
            threading.Event().wait()
        return SimpleNamespace(info=SimpleNamespace(status="RUNNING"), data=SimpleNamespace(_metric_objs=[]))

    def record_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.points.append(metrics)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    one = Server()
    monkeypatch.setattr("mlflow.tracking.client.MlflowClient", lambda uri: one)
    monkeypatch.setattr(
        "mlflow.utils.autologging_utils.BatchMetricsLogger",
        lambda run_id, tracking_uri: SimpleNamespace(
            record_metrics=one.record_metrics, total_training_time=0.0, total_log_batch_time=0.0, data=[]
        ),
    )
    monkeypatch.setattr(system_metrics, "RETRY_S", 0.0)
    monkeypatch.setattr("psutil.cpu_percent", lambda: 42.0)
    gpu = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=3e9, total=12e9),
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=77),
        nvmlDeviceGetPowerUsage=lambda handle: 150_000,
        nvmlDeviceGetEnforcedPowerLimit=lambda handle: 300_000,
    )
    monkeypatch.setitem(sys.modules, "pynvml", gpu)
    monkeypatch.setattr(gpu_monitor, "pynvml", gpu, raising=False)
    return one


def test_each_nodes_load_is_logged_under_its_number_and_again_after_an_outage(server):
    watch_node(uri="http://mlflow", run_id="r", node_rank=1, seconds=0.01)
    wait_until(lambda: bool(server.points), what="the first point")
    assert server.questions > 2, "the first monitor ended when the server was away"
    point = server.points[0]
    assert all(name.startswith("system/node_1/") for name in point)
    assert point["system/node_1/cpu_utilization_percentage"] == 42.0
    assert point["system/node_1/gpu_0_memory_usage_percentage"] == 25.0
    assert point["system/node_1/gpu_0_utilization_percentage"] == 77.0
    assert point["system/node_1/gpu_0_power_usage_percentage"] == 50.0
