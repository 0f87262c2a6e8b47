"""The load of each node (CPU, memory, disk, network, GPUs), logged to MLflow while a training runs on it."""

import logging
import threading

RETRY_S = 30.0


def watch_node(*, uri: str, run_id: str, node_rank: int, seconds: float) -> None:
    """Log MLflow's system metrics as system/node_0/... from a thread that ends with this process.

    One worker a node calls this. MLflow's own monitor ends when the server does not answer; here it begins again.

    Args:
        seconds: between samples.
    """
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)

    def watch() -> None:
        pause = threading.Event()
        while True:
            monitor = SystemMetricsMonitor(
                run_id,
                sampling_interval=seconds,
                resume_logging=True,
                node_id=f"node_{node_rank}",
                tracking_uri=uri,
            )
            monitor.monitor()
            pause.wait(RETRY_S)

    threading.Thread(target=watch, name="system metrics", daemon=True).start()
