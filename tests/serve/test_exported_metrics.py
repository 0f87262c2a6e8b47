"""Every metric that a dashboard or an alert names of the endpoint and of Serve comes out of the running system."""

import json
import sys
from pathlib import Path

import httpx
from stack import Stack
from waiting import patience, wait_until

sys.path.append(str(Path(__file__).resolve().parents[2] / "infra" / "check"))

import promql

FROM_TABLES = ("ray_node_gpu", "ray_node_gram", "ray_cluster_", "ray_train_", "ray_sdavs_")
"""Checked in tests/infra/test_monitoring.py: they need a GPU, an autoscaler or a training."""


def exported(address: str) -> str:
    """What a target exports; nothing yet while its process starts."""
    try:
        return httpx.get(address, timeout=patience(30)).text
    except httpx.ConnectError:
        return ""


def scraped(stack: Stack) -> set[str]:
    """Names of all samples that Prometheus would get now, by Ray's own list of targets and the endpoint."""
    targets = json.loads((stack.folder / "ray" / "prom_metrics_service_discovery.json").read_text())
    addresses = [f"http://{target}/metrics" for group in targets for target in group["targets"]]
    own = httpx.get(f"{stack.address}/metrics", headers=stack.admin, timeout=patience(30)).text
    pages = [own, *map(exported, addresses)]
    return {
        line.split("{")[0].split(" ")[0]
        for page in pages
        for line in page.splitlines()
        if line[:1] not in "#"
    }


def test_every_metric_of_a_dashboard_or_alert_is_exported(stack: Stack, make_video):
    wanted = {name for name in promql.named_metrics() if not name.startswith(FROM_TABLES)}
    assert len(wanted) > 15
    assert stack.post(video=("clip.mp4", make_video(), "video/mp4")).status_code == 200
    wait_until(
        lambda: wanted <= scraped(stack),
        what="Ray, which exports every few seconds",
        every=1,
        details=lambda: {name: sorted(promql.named_metrics()[name]) for name in wanted - scraped(stack)},
    )
