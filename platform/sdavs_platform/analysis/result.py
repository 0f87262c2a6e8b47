"""The result of an analysis: figures, a row per clip, plots and a table; written to disk and logged to MLflow."""

import csv
import json
import math
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sdavs_platform.tracking.runs import TrainingRun

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class AnalysisResult:
    """The result of one analysis of one model."""

    name: str
    """noise, consistency, maps, attention, response, listening or elimination."""
    numbers: dict[str, Any]
    """All figures: report.json."""
    rows: list[Row]
    """One per clip and condition: clips.csv."""
    pictures: dict[str, Figure]
    """Plots by file name without suffix."""
    metrics: dict[str, float]
    """The main figures, logged as MLflow metrics."""
    table: str
    """Text for the terminal: report.txt."""


def write_result(result: AnalysisResult, folder: Path) -> Path:
    """Write report.json, report.txt, clips.csv and the plots; atomically replaces the files of an earlier run."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".analysis-") as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        (fresh / "report.json").write_text(as_json(result.numbers) + "\n")
        (fresh / "report.txt").write_text(result.table + "\n")
        with (fresh / "clips.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=_columns(result.rows), lineterminator="\n")
            writer.writeheader()
            writer.writerows(_without_nan(result.rows))
        for name, figure in result.pictures.items():
            figure.savefig(fresh / f"{name}.png", dpi=120)
        if folder.exists():
            shutil.move(folder, Path(scratch) / "old")
        shutil.move(fresh, folder)
    return folder


def log_result(result: AnalysisResult, folder: Path, *, run_id: str, uri: str) -> None:
    """Log the folder to analysis/<name>/ of the model's MLflow run, and the metrics next to its others."""
    run = TrainingRun(uri=uri, run_id=run_id)
    run.client.log_artifacts(run_id, str(folder), f"analysis/{result.name}")
    metrics = {f"analysis/{result.name}/{key}": value for key, value in result.metrics.items()}
    run.log_metrics({key: value for key, value in metrics.items() if math.isfinite(value)}, step=0)


def as_json(numbers: Any) -> str:
    """Indented JSON; NaN becomes null."""
    return json.dumps(_without_nan(numbers), indent=2, allow_nan=False)


def mean(values: Iterable[float]) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def means(rows: list[Row], keys: Iterable[str], **where: Any) -> dict[str, float]:
    """The mean of each key over the rows whose columns equal `where`."""
    chosen = [row for row in rows if all(row[column] == value for column, value in where.items())]
    return {key: mean(row[key] for row in chosen) for key in keys}


def flat_metrics(tree: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested figures as MLflow metrics: joined by "/", with "_" for blanks."""
    flat: dict[str, float] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}".replace(" ", "_")
        flat |= flat_metrics(value, f"{name}/") if isinstance(value, dict) else {name: float(value)}
    return flat


def _columns(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
