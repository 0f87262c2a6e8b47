"""Dashboards and alerts name metrics that exist. The endpoint's and Serve's: tests/serve/test_exported_metrics.py."""

import re
from pathlib import Path

import dashboards
import promql
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        (
            'sum by (le, path) (rate(a_bucket{path="/x", status=~"5.."}[5m])) > 0.5 * b:c and d == 1',
            {"a_bucket", "d"},
        ),
        ("histogram_quantile(0.99, sum by (le) (rate(x_bucket[5m] offset 1h)))", {"x_bucket"}),
        ("label_values(ray_sdavs_train_step, run)", {"ray_sdavs_train_step"}),
        ("changes(up[20m]) == 0 unless on(instance) down{a='b'} < inf", {"up", "down"}),
    ],
)
def test_metric_names_are_found_in_promql(expression: str, names: set[str]):
    assert promql.metrics_in(expression) == names


def test_what_is_named_of_nodes_and_trainings_is_exported_by_this_ray_and_this_code():
    """GPUs and trainings are not to be had in every test; the tables that make their metrics are."""
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES
    from ray.train.v2._internal.metrics.controller import ControllerMetrics
    from ray.train.v2._internal.metrics.worker import WorkerMetrics

    source = (ROOT / "platform/sdavs_platform/training/telemetry/metrics.py").read_text()
    trainings = set(re.findall(r'Gauge\(\s*"(\w+)"', source))
    train_library = {
        value
        for table in (ControllerMetrics, WorkerMetrics)
        for name, value in vars(table).items()
        if name.isupper() and isinstance(value, str)
    }
    exported = {f"ray_{name}" for name in set(METRICS_GAUGES) | trainings | train_library}
    families = ("ray_node_", "ray_cluster_", "ray_train_", "ray_sdavs_")
    named = {name for name in promql.named_metrics() if name.startswith(families)}
    assert len(named) > 12
    assert named <= exported


def test_every_alert_says_what_to_do_and_is_made_to_fire():
    runbook = (ROOT / "docs/runbook.md").read_text()
    headings = {line.lstrip("# ").lower() for line in runbook.splitlines() if line.startswith("#")}
    fired = (ROOT / "infra/monitoring/rules_test.yaml").read_text()
    alerts = [rule for rule in promql.rules() if "alert" in rule]
    assert len(alerts) >= 10
    for rule in alerts:
        page, anchor = rule["annotations"]["runbook"].split("#")
        assert (ROOT / page).is_file()
        assert anchor in headings
        assert f'alertname="{rule["alert"]}"' in fired


def test_kubernetes_gets_the_same_rules():
    plain = yaml.safe_load((ROOT / "infra/monitoring/rules.yaml").read_text())
    assert yaml.safe_load((ROOT / "infra/monitoring/prometheus-rule.yaml").read_text())["spec"] == plain


def test_dashboards_are_current_and_grafana_can_tell_their_panels_apart():
    for name, dashboard in dashboards.DASHBOARDS.items():
        page = promql.dashboards()[f"{name}.json"]
        assert (dashboards.FOLDER / f"{name}.json").read_text() == dashboards.render(name, dashboard), (
            "run `make infra`"
        )
        numbers = [panel["id"] for panel in page["panels"]]
        assert len(set(numbers)) == len(numbers)
        assert all(panel["targets"] for panel in page["panels"])
        for panel in page["panels"]:
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
            # A panel's variables are declared.
            declared = {variable["name"] for variable in page["templating"]["list"]}
            used = set(re.findall(r"\$\{?(\w+)", str(panel)))
            assert used <= declared
