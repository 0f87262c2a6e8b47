"""Builds the report of a sweep: on this machine, on the storage, and as artifacts of the sweep's MLflow run."""

import json
from pathlib import Path

from sdavs_platform.config.paths import state_folder
from sdavs_platform.tracking.runs import TrainingRun
from sdavs_platform.tuning.report.page import render
from sdavs_platform.tuning.report.summary import summarize
from sdavs_platform.tuning.report.text import markdown, trials_csv
from sdavs_platform.tuning.store import CANDIDATE_FILE, SweepStore

PAGE = "report.html"


def build_report(store: SweepStore, *, parent: TrainingRun | None = None, folder: Path | None = None) -> Path:
    """Write report.html, report.md and trials.csv; may be called while the sweep runs.

    Args:
        parent: the sweep's MLflow run, which gets them as artifacts.
        folder: where to write them on this machine; None for `reports/<sweep>` in the state folder.

    Returns:
        The HTML file on this machine.

    Raises:
        ValueError: there is no such sweep, or a file cannot be written.
    """
    summary = summarize(store)
    known = store.read(CANDIDATE_FILE)
    candidate = json.loads(known) if known else None
    files = {
        PAGE: render(summary, uri=store.uri, candidate=candidate),
        "report.md": markdown(summary),
        "trials.csv": trials_csv(summary),
    }
    folder = folder or state_folder() / "reports" / store.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{folder}: cannot be written: {error}") from None
    for name, text in files.items():
        store.write(f"report/{name}", text)
        if parent is not None:
            parent.client.log_text(parent.run_id, text, f"report/{name}")
    if parent is not None and summary.best is not None:
        best = {f"best_{key}": value for key, value in summary.best.best.items() if key != "seconds"}
        parent.log_metrics(best | {"trials_ended": float(len(summary.trials))}, step=0)
        parent.set_tags({"sdavs.best_trial": summary.best.id})
    return folder / PAGE
