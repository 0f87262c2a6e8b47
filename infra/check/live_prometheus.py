"""Runs Prometheus with rules whose minutes are seconds, and logs when alerts fire and end."""

import contextlib
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import requests

MONITORING = Path(__file__).resolve().parents[1] / "monitoring"


def quick(rules: str) -> str:
    """The rules with seconds for minutes: `[20m]`, `offset 1h`, `for: 10m`."""
    return re.sub(
        r"(\[|offset |for: )(\d+)([mh])\b",
        lambda found: f"{found[1]}{int(found[2]) * (60 if found[3] == 'h' else 1)}s",
        rules,
    )


class Alerts(threading.Thread):
    """Queries Prometheus twice a second for firing alerts, and logs changes.

    Attributes:
        missed: alerts that were waited for and did not fire.
    """

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._began = time.monotonic()
        self._firing: dict[str, str] = {}
        self._over = threading.Event()
        self.missed: list[str] = []

    def log(self, line: str) -> None:
        """Print it with the time since the beginning."""
        print(f"{time.monotonic() - self._began:4.0f} s  {line}", flush=True)

    def run(self) -> None:
        """The thread: query Prometheus until stopped."""
        while not self._over.wait(0.5):
            firing = {
                alert["labels"]["alertname"]: alert["annotations"]["summary"]
                for alert in self._ask("alerts")["alerts"]
                if alert["state"] == "firing"
            }
            for name in firing.keys() - self._firing.keys():
                self.log(f"FIRING  {name}: {firing[name]}")
            for name in self._firing.keys() - firing.keys():
                self.log(f"over    {name}")
            self._firing = firing

    def stop(self) -> None:
        self._over.set()
        self.join()

    def wait(self, *names: str, fire: bool = True, limit_s: float = 120.0) -> None:
        """Return when all of these fire, or none of them, or when it has taken too long, which `missed` then lists."""
        deadline = time.monotonic() + limit_s
        while wrong := [name for name in names if (name in self._firing) != fire]:
            if time.monotonic() > deadline:
                self.missed += wrong
                self.log(
                    f"MISSED  {', '.join(wrong)}: {'silent' if fire else 'still firing'} after {limit_s:g} s"
                )
                return
            time.sleep(0.2)

    def broken_rules(self) -> list[str]:
        """Rules whose last evaluation failed, with the reason."""
        rules = (rule for group in self._ask("rules")["groups"] for rule in group["rules"])
        return [f"{rule['name']} ({rule['lastError']})" for rule in rules if rule["health"] != "ok"]

    def _ask(self, what: str) -> dict:
        return requests.get(f"{self._address}/api/v1/{what}", timeout=10).json()["data"]


@contextlib.contextmanager
def prometheus(folder: Path, *, port: int, endpoint: str) -> Iterator[Alerts]:
    """A Prometheus with the laptop's config, which looks every second."""
    config = (MONITORING / "prometheus.yaml").read_text()
    targets = f"{folder}/ray/prom_metrics_service_discovery.json"
    for old, new in (
        ("/tmp/ray/prom_metrics_service_discovery.json", targets),
        ("127.0.0.1:8000", endpoint),
        ("_interval: 10s", "_interval: 1s"),
    ):
        assert old in config
        config = config.replace(old, new)
    (folder / "prometheus.yaml").write_text(config)
    (folder / "rules.yaml").write_text(quick((MONITORING / "rules.yaml").read_text()))
    command = ["prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/tsdb"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "prometheus.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: requests.get(f"{address}/-/ready", timeout=5).ok, limit_s=60)
        alerts = Alerts(address)
        alerts.start()
        try:
            yield alerts
        finally:
            alerts.stop()
    finally:
        server.terminate()
        server.wait(30)


def wait_for(what: Callable[[], bool], *, limit_s: float) -> None:
    """Wait until the condition holds; no response counts as false.

    Raises:
        TimeoutError: it did not in time.
    """
    deadline = time.monotonic() + limit_s
    while True:
        with contextlib.suppress(requests.RequestException):
            if what():
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {limit_s:g} s")
        time.sleep(0.3)
