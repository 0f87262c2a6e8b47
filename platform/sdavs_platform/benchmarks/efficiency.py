"""Measures the efficiency of models (paper IV-F) next to Table X: as a table, a plot (Fig. 9) and an MLflow run."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sdavs_model import ModelConfig, SDAVSConfig, benchmark, budgets, build_model, recipes
from sdavs_platform.config.cli import load_config
from sdavs_platform.config.tree import RunConfig
from sdavs_platform.console import progress
from sdavs_platform.tables import text_table
from sdavs_platform.tracking.client import experiment_id, mlflow_client, tracking_uri

Report = dict[str, Any]
CONFIGURED = "as configured"


def measure(
    *,
    config: str | None = None,
    backbones: Sequence[str] | None = None,
    image_size: int | None = None,
    recipe_names: Sequence[str] | None = None,
    speed: bool = True,
    device: str = "cpu",
    num_threads: int | None = None,
    repeats: int = 3,
) -> Report:
    """Count the operations of every combination of backbone and recipe, and time it.

    Args:
        config: a training's YAML file; None for the paper's Swin-B.
        backbones: None for the config's own.
        image_size: None for the config's own.
        recipe_names: "all" for every one; None for the rows of Table X, or with `config` for its own ablation.
        num_threads: torch's CPU threads; None for torch's default.

    Returns:
        {"device", "torch", "rows": [{"architecture", "backbone", "recipe", "image_size", "num_frames", "cost", "paper",
        "checks", "speed"}]}, plain JSON types; "paper" and "speed" are None where there is none.

    Raises:
        ValueError: an unknown backbone, recipe, file or device.
    """
    if repeats < 1:
        raise ValueError(f"--repeats: {repeats} is below 1")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device: {device!r} is not available on this machine; allowed: cpu")
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    bases = _bases(config, backbones, image_size)
    variants = [v for base in bases for v in _variants(base, recipe_names, configured=config is not None)]
    rows = [_counted(name, variant) for name, variant in variants]
    if speed:
        _time_all(rows, [variant for _, variant in variants], device=device, repeats=repeats)
    return {"device": device, "torch": torch.__version__, "rows": rows}


def results_table(report: Report) -> str:
    """One row per model; below it the parts of the first on each backbone, and the limits that models have to keep."""
    header = ["backbone, recipe"]
    for title in ("parameters, M", "MACs, G", "frames/s"):
        header += [f"{title}\nhere", "\npaper"]
    header += ["clips/s", "whole/bare\nby the clock", "\nCPU time", "memory, MB"]
    rows: list[list[str]] = []
    last = None
    for row in report["rows"]:
        if row["backbone"] != last:
            last = row["backbone"]
            size = f"{row['image_size']} px, {row['num_frames']} frames"
            rows += [[""], [f"{row['architecture']} on {last}, {size}"]]
        paper, speed = row["paper"] or {}, row["speed"] or {}
        rows.append(
            [
                f"  {row['recipe']}",
                _cell(row["cost"]["parameters"] / 1e6, 2),
                _cell(paper.get("parameters_m"), 2),
                _cell(row["cost"]["macs"] / 1e9, 1),
                _cell(paper.get("macs_g"), 1),
                _cell(speed.get("frames_per_s"), 2),
                _cell(paper.get("frames_per_s"), 2),
                _cell(speed.get("clips_per_s"), 3),
                _cell(speed.get("ratio"), 3),
                _cell(speed.get("cpu_ratio"), 3),
                _cell(speed.get("peak_memory_mb") or None, 0),
            ]
        )
    limits = [
        [
            f"{row['backbone']}, {row['recipe']}: {check['quantity']}",
            f"{check['value']:.2f}",
            "within" if check["within"] else "OUTSIDE",
            f"{check['low']:.2f} {'or more' if check['high'] is None else 'to ' + format(check['high'], '.2f')}",
        ]
        for row in report["rows"]
        for check in row["checks"]
    ]
    tables = [text_table(header, rows), *map(_parts_table, _firsts(report["rows"]))]
    if limits:
        tables.append(text_table(["limits", "value", "", "allowed"], limits))
    return "\n\n".join(tables)


def _firsts(rows: Sequence[Report]) -> list[Report]:
    """The first row of each architecture and backbone."""
    return list({(row["architecture"], row["backbone"]): row for row in reversed(rows)}.values())[::-1]


def _parts_table(row: Report) -> str:
    """Parameters and multiply-accumulates of every part of a model."""
    parts = [
        [f"  {name}", f"{part['parameters'] / 1e6:.2f}", f"{part['macs'] / 1e9:.2f}"]
        for name, part in row["cost"]["parts"].items()
    ]
    return text_table([f"parts of {row['recipe']}, {row['backbone']}", "parameters, M", "MACs, G"], parts)


def efficiency_figure(report: Report) -> Figure:
    """The paper's Fig. 9: multiply-accumulates against speed, with the parameters as the size of the markers.

    Without measured speed the vertical axis shows the parameters.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    timed = all(row["speed"] for row in report["rows"])
    for row in report["rows"]:
        parameters_m, macs_g = row["cost"]["parameters"] / 1e6, row["cost"]["macs"] / 1e9
        height = row["speed"]["frames_per_s"] if timed else parameters_m
        disc = axes.scatter(macs_g, height, s=6 * parameters_m, alpha=0.6)
        label = f"{row['backbone'].split('_patch')[0]}, {row['recipe']}: {parameters_m:.1f} M"
        disc.set_label(label)
    axes.set_xlabel("multiply-accumulates per clip, G")
    axes.set_ylabel(f"frames per second on {_machine(report)}" if timed else "parameters, M")
    axes.margins(0.2)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", markerscale=0.4)
    return figure


def write_results(report: Report, folder: Path) -> None:
    """Write efficiency.png and efficiency.json to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    efficiency_figure(report).savefig(folder / "efficiency.png", dpi=150)
    (folder / "efficiency.json").write_text(json.dumps(report, indent=2))


def log_results(report: Report, *, uri: str | None = None) -> str:
    """Log the figures, the plot and the JSON as a separate MLflow run; returns its id."""
    client = mlflow_client(tracking_uri(uri))
    created = client.create_run(experiment_id(client, RunConfig().tracking.experiment), run_name="efficiency")
    run_id = created.info.run_id
    for row in report["rows"]:
        prefix = f"{row['backbone']}/{row['recipe'].replace(' ', '_')}"
        client.log_metric(run_id, f"{prefix}/parameters_m", row["cost"]["parameters"] / 1e6)
        client.log_metric(run_id, f"{prefix}/macs_g", row["cost"]["macs"] / 1e9)
        if row["speed"]:
            client.log_metric(run_id, f"{prefix}/frames_per_s", row["speed"]["frames_per_s"])
            client.log_metric(run_id, f"{prefix}/ratio", row["speed"]["ratio"])
    client.log_figure(run_id, efficiency_figure(report), "efficiency.png")
    client.log_dict(run_id, report, "efficiency.json")
    client.set_terminated(run_id, "FINISHED")
    return run_id


def _bases(config: str | None, backbones: Sequence[str] | None, image_size: int | None) -> list[ModelConfig]:
    base: ModelConfig = load_config([config]).model if config else SDAVSConfig(backbone=budgets.SWIN_B)
    if image_size is not None:
        base = dataclasses.replace(base, image_size=image_size)
    return [dataclasses.replace(base, backbone=name) for name in backbones or [base.backbone]]


def _variants(
    base: ModelConfig, names: Sequence[str] | None, *, configured: bool
) -> list[tuple[str, ModelConfig]]:
    if names is None and configured:
        return [(CONFIGURED, base)]
    book = recipes.recipes_of(base.architecture)
    if names is None:
        names = [*budgets.paper_rows(base)] or [book.reference]
    elif [*names] == ["all"]:
        names = [*book.recipes]
    return [(name, book.build(name, base)) for name in names]


def _counted(name: str, config: ModelConfig) -> Report:
    costs = {name: benchmark.cost(config)}
    paper = budgets.paper_row(config, name)
    reference = recipes.recipes_of(config.architecture).reference
    if paper is not None and reference not in costs:
        costs[reference] = benchmark.cost(recipes.build(reference, config))
    checks = budgets.checks(config, name, costs) if paper is not None else []
    return {
        "architecture": config.architecture,
        "backbone": config.backbone,
        "recipe": name,
        "image_size": config.image_size,
        "num_frames": config.num_frames,
        "cost": dataclasses.asdict(costs[name]),
        "paper": dataclasses.asdict(paper) if paper is not None else None,
        "checks": [dataclasses.asdict(check) | {"within": check.within} for check in checks],
        "speed": None,
    }


def _time_all(rows: list[Report], configs: list[ModelConfig], *, device: str, repeats: int) -> None:
    """Add "speed" to each row, and the check of the speed ratio."""
    total, done = len(rows) * repeats, 0
    with progress(every=1) as show:

        def step() -> None:
            nonlocal done
            done += 1
            show("timing", done, total)

        for row, config in zip(rows, configs, strict=True):
            model = build_model(config.without_weights()).to(device)
            speed = benchmark.speed(model, repeats=repeats, step=step)
            row["speed"] = dataclasses.asdict(speed)
            check = budgets.ratio_check(config, row["recipe"], speed) if row["paper"] else None
            if check is not None:
                row["checks"].append(dataclasses.asdict(check) | {"within": check.within})


def _machine(report: Report) -> str:
    speed = report["rows"][0]["speed"]
    return speed["device"] if speed["device"] != "cpu" else f"{speed['num_threads']} CPU threads"


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
