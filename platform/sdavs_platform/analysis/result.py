"""What an analysis found: numbers, a row per clip, pictures, and a table for the terminal; to disk and to MLflow."""

import csv
import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Sequence
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
    """noise, consistency, maps, attention, response or listening."""
    numbers: dict[str, Any]
    """Everything in one tree: report.json."""
    rows: list[Row]
    """One a clip and condition: clips.csv."""
    pictures: dict[str, Figure]
    """Figures by file name without its ending."""
    metrics: dict[str, float]
    """The few figures worth a line in MLflow."""
    table: str
    """For the terminal: report.txt."""


def write_result(result: AnalysisResult, folder: Path) -> Path:
    """Write report.json, report.txt, clips.csv and the pictures; replaces what an earlier run left there.

    Nothing half-written is ever in `folder`.
    """
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
    """Put the folder below analysis/<name>/ of the model's MLflow run, and the metrics beside its others."""
    run = TrainingRun(uri=uri, run_id=run_id)
    run.client.log_artifacts(run_id, str(folder), f"analysis/{result.name}")
    metrics = {f"analysis/{result.name}/{key}": value for key, value in result.metrics.items()}
    run.log_metrics({key: value for key, value in metrics.items() if math.isfinite(value)}, step=0)


def as_json(numbers: Any) -> str:
    """Indented JSON; figures that do not exist are null."""
    return json.dumps(_without_nan(numbers), indent=2, allow_nan=False)


def text_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Aligned columns: words to the left, figures with three decimals to the right, "-" where there is none."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first, *rest = (
            text.ljust(w) if i == 0 else text.rjust(w)
            for i, (text, w) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join([first, *rest]).rstrip()

    return "\n".join(line(row) for row in [list(header), *cells])


def mean(values: Iterable[float]) -> float:
    """The mean of the values that exist; NaN of none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def means(rows: list[Row], keys: Iterable[str], **where: Any) -> dict[str, float]:
    """The mean of each key over the rows whose columns have these values."""
    chosen = [row for row in rows if all(row[column] == value for column, value in where.items())]
    return {key: mean(row[key] for row in chosen) for key in keys}


def flat_metrics(tree: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested figures as MLflow metrics: joined by "/", without blanks."""
    flat: dict[str, float] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}".replace(" ", "_")
        flat |= flat_metrics(value, f"{name}/") if isinstance(value, dict) else {name: float(value)}
    return flat


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.3f}"
    return str(value)


def _columns(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
