"""The Grafana dashboards, from which infra/kuberay/generate.py (`make infra`) writes dashboards/*.json.

Every panel is a title, a unit of Grafana's and queries with their legends. A test holds the metric names against what
Ray and the endpoint export.
"""

import json
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent / "dashboards"
RUN = 'run=~"$run"'
SEGMENT = 'path="/v1/segment"'
MODELS = 'application="sdavs", deployment=~"model-.*"'
PROGRESS = f"ray_sdavs_train_step{{{RUN}}} / ray_sdavs_train_steps{{{RUN}}}"
BLOCKED = "max by (ray_train_run_name) (rate(ray_train_report_total_blocked_time_s[10m]))"
TIMES = f"sum by (le) (rate(sdavs_request_seconds_bucket{{{SEGMENT}}}[5m]))"
PARTS = ("decode", "model", "encode")
STEP_PARTS = f'ray_sdavs_train_part_seconds{{{RUN}, part!="communication"}}'
WAITING = (
    f'ray_sdavs_train_part_seconds{{{RUN}, part="communication"}} / ray_sdavs_train_step_seconds{{{RUN}}}'
)


class Panel(NamedTuple):
    """A panel of a dashboard."""

    title: str
    unit: str
    queries: dict[str, str]
    """Legend -> PromQL."""
    kind: str = "timeseries"


class Dashboard(NamedTuple):
    """A dashboard. `choice` is a label to filter by: (name, metric that has it)."""

    title: str
    panels: list[Panel]
    choice: tuple[str, str] | None = None


DASHBOARDS = {
    "training": Dashboard(
        "SDAVS training",
        [
            Panel(
                "Progress",
                "percentunit",
                {"{{run}}": PROGRESS},
            ),
            Panel("Seconds a step", "s", {"{{run}}": f"ray_sdavs_train_step_seconds{{{RUN}}}"}),
            Panel("Where a step's time goes", "s", {"{{run}} {{part}}": STEP_PARTS}),
            Panel(
                "Fraction of a step spent in collectives (with training.profile)",
                "percentunit",
                {"{{run}}": WAITING},
            ),
            Panel("Clips a second", "none", {"{{run}}": f"ray_sdavs_train_clips_per_second{{{RUN}}}"}),
            Panel("Loss", "none", {"{{run}}": f"ray_sdavs_train_loss{{{RUN}}}"}),
            Panel("Gradient norm", "none", {"{{run}}": f"ray_sdavs_train_grad_norm{{{RUN}}}"}),
            Panel("J of the latest validation", "none", {"{{run}}": f"ray_sdavs_train_val_miou{{{RUN}}}"}),
            Panel(
                "Time spent writing checkpoints",
                "percentunit",
                {"{{ray_train_run_name}}": BLOCKED},
            ),
            Panel(
                "Starting and stopping workers",
                "s",
                {
                    # Exported for a moment, when they change.
                    "start {{ray_train_run_name}}": "last_over_time(ray_train_worker_group_start_total_time_s[1h])",
                    "stop {{ray_train_run_name}}": "last_over_time(ray_train_worker_group_shutdown_total_time_s[1h])",
                },
            ),
            Panel("GPU", "percent", {"{{instance}} {{GpuIndex}}": "ray_node_gpus_utilization"}),
            Panel("GPU memory", "decmbytes", {"{{instance}} {{GpuIndex}}": "ray_node_gram_used"}),
            Panel(
                "Peak of tensors on the first GPU",
                "decgbytes",
                {"{{run}}": f"ray_sdavs_train_gpu_memory_gb{{{RUN}}}"},
            ),
            Panel("CPU", "percent", {"{{instance}}": "ray_node_cpu_utilization"}),
            Panel("Memory", "bytes", {"{{instance}}": "ray_node_mem_used"}),
            Panel("Network received", "Bps", {"{{instance}}": "ray_node_network_receive_speed"}),
            Panel("Disk free", "bytes", {"{{instance}}": "ray_node_disk_free"}),
        ],
        choice=("run", "ray_sdavs_train_step"),
    ),
    "sweeps": Dashboard(
        "SDAVS sweeps",
        [
            Panel("Trials that train", "none", {"trials": f"count(ray_sdavs_train_step{{{RUN}}})"}, "stat"),
            Panel("Best J now training", "none", {"J": f"max(ray_sdavs_train_val_miou{{{RUN}}})"}, "stat"),
            Panel("J by trial", "none", {"{{run}}": f"ray_sdavs_train_val_miou{{{RUN}}}"}),
            Panel("Loss by trial", "none", {"{{run}}": f"ray_sdavs_train_loss{{{RUN}}}"}),
            Panel(
                "CPUs and GPUs",
                "none",
                {
                    "{{Name}} {{State}}": 'sum by (Name, State) (ray_resources{Name=~"CPU|GPU"})',
                },
            ),
            Panel("Actors by state", "none", {"{{State}}": "sum by (State) (ray_actors)"}),
            Panel(
                "Nodes wanted and alive",
                "none",
                {
                    "active": "sum(ray_cluster_active_nodes)",
                    "pending": "sum(ray_cluster_pending_nodes)",
                    "failed": "sum(ray_cluster_failed_nodes)",
                },
            ),
            Panel("Object store", "bytes", {"{{Location}}": "sum by (Location) (ray_object_store_memory)"}),
        ],
        choice=("run", "ray_sdavs_train_step"),
    ),
    "serving": Dashboard(
        "SDAVS endpoint",
        [
            Panel(
                "Requests by status",
                "reqps",
                {
                    "{{status}}": f"sum by (status) (rate(sdavs_requests_total{{{SEGMENT}}}[5m]))",
                },
            ),
            Panel(
                "Fraction of requests served (without clients' mistakes)",
                "percentunit",
                {"served": "sdavs:request_success:ratio5m"},
            ),
            Panel(
                "Clips by API key",
                "reqps",
                {"{{key}} {{status}}": "sum by (key, status) (rate(sdavs_key_requests_total[5m]))"},
            ),
            Panel(
                "Time of a request",
                "s",
                {f"p{share}": f"histogram_quantile(0.{share}, {TIMES})" for share in (50, 95, 99)},
            ),
            Panel(
                "In work or waiting",
                "none",
                {"requests": "sum(sdavs_requests_open)", "admitted": "sum(sdavs_requests_limit)"},
            ),
            Panel(
                "Frames answered",
                "ops",
                {"version {{version}}": "sum by (version) (rate(sdavs_frames_total[5m]))"},
            ),
            Panel(
                "Where the time goes",
                "s",
                {part: f'sum(rate(sdavs_segment_seconds_total{{part="{part}"}}[5m]))' for part in PARTS},
            ),
            Panel(
                "Windows of clips at the model replicas",
                "none",
                {
                    "in {{deployment}}": f"sum by (deployment) (ray_serve_replica_processing_queries{{{MODELS}}})",
                    "before {{deployment}}": f"sum by (deployment) (ray_serve_deployment_queued_queries{{{MODELS}}})",
                },
            ),
            Panel(
                "Healthy model replicas",
                "none",
                {
                    "{{deployment}}": f"sum by (deployment) (ray_serve_deployment_replica_healthy{{{MODELS}}})",
                },
            ),
            Panel(
                "Time in a model replica, p95",
                "ms",
                {
                    "{{deployment}}": "histogram_quantile(0.95, sum by (le, deployment) "
                    f"(rate(ray_serve_deployment_processing_latency_ms_bucket{{{MODELS}}}[5m])))",
                },
            ),
            Panel("GPU", "percent", {"{{instance}} {{GpuIndex}}": "ray_node_gpus_utilization"}),
            Panel("Memory", "bytes", {"{{instance}}": "ray_node_mem_used"}),
        ],
    ),
    "rollout": Dashboard(
        "SDAVS rollout",
        [
            Panel(
                "Who answers",
                "percentunit",
                {"version {{version}}": "max by (version) (sdavs_version_weight)"},
            ),
            Panel("Phase", "none", {"{{phase}}": "max by (phase) (sdavs_rollout_phase)"}),
            Panel(
                "The alias points to a refused version",
                "none",
                {"refused": "max(sdavs_version_refused)"},
                "stat",
            ),
            Panel("Rollouts started", "none", {"rollouts": "max(sdavs_rollouts)"}, "stat"),
            Panel("Rolled back in the bake", "none", {"rollbacks": "max(sdavs_rollbacks)"}, "stat"),
            Panel(
                "Frames by version",
                "ops",
                {
                    "version {{version}}": "sum by (version) (rate(sdavs_frames_total[1m]))",
                },
            ),
            Panel(
                "Errors",
                "reqps",
                {
                    "{{status}}": f'sum by (status) (rate(sdavs_requests_total{{{SEGMENT}, status=~"5.."}}[1m]))',
                },
            ),
            Panel(
                "Time in a model replica, p95",
                "ms",
                {
                    "{{deployment}}": "histogram_quantile(0.95, sum by (le, deployment) "
                    f"(rate(ray_serve_deployment_processing_latency_ms_bucket{{{MODELS}}}[1m])))",
                },
            ),
        ],
    ),
}


def render(name: str, dashboard: Dashboard) -> str:
    """Grafana's JSON of a dashboard: two panels a row, the data source chosen on the page."""
    source = {"type": "prometheus", "uid": "${source}"}
    variables: list[dict] = [
        {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"}
    ]
    if dashboard.choice:
        label, metric = dashboard.choice
        query = f"label_values({metric}, {label})"
        variables.append(
            {
                "name": label,
                "type": "query",
                "datasource": source,
                "query": {"query": query, "refId": label},
                "definition": query,
                "refresh": 2,
                "multi": True,
                "includeAll": True,
                "current": {"text": "All", "value": "$__all"},
            }
        )
    panels = [
        {
            "id": number + 1,
            "type": panel.kind,
            "title": panel.title,
            "datasource": source,
            "gridPos": {"x": 12 * (number % 2), "y": 8 * (number // 2), "w": 12, "h": 8},
            "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
            "targets": [
                {"refId": chr(ord("A") + index), "datasource": source, "expr": query, "legendFormat": legend}
                for index, (legend, query) in enumerate(panel.queries.items())
            ],
        }
        for number, panel in enumerate(dashboard.panels)
    ]
    page = {
        "uid": f"sdavs-{name}",
        "title": dashboard.title,
        "tags": ["sdavs"],
        "schemaVersion": 41,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": variables},
        "panels": panels,
    }
    return json.dumps(page, indent=1) + "\n"
