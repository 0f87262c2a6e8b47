"""Builds the report of a sweep: on this machine, on the storage, and as artifacts of the sweep's MLflow run."""

import json
import logging
from pathlib import Path

from sdavs_platform.config.paths import state_folder
from sdavs_platform.tracking.client import log_or_warn
from sdavs_platform.tracking.runs import TrainingRun
from sdavs_platform.tuning.report.page import render
from sdavs_platform.tuning.report.summary import Summary, summarize
from sdavs_platform.tuning.report.text import markdown, trials_csv
from sdavs_platform.tuning.store import CANDIDATE_FILE, SweepStore

logger = logging.getLogger(__name__)

PAGE = "report.html"


def build_report(store: SweepStore, *, parent: TrainingRun | None = None, folder: Path | None = None) -> Path:
    """Write report.html, report.md and trials.csv; may be called while the sweep runs.

    If they are on this machine, failing to copy them to the storage or to MLflow is only a warning.

    Args:
        parent: the sweep's MLflow run, which gets them as artifacts.
        folder: where to write them on this machine; None for `reports/<sweep>` in the state folder.

    Returns:
        The HTML file on this machine.

    Raises:
        ValueError: there is no such sweep, or `folder` cannot be written.
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
    try:
        for name, text in files.items():
            store.write(f"report/{name}", text)
    except ValueError as error:
        logger.warning(f"the report could not be written to the storage: {error}")
    if parent is not None:
        log_or_warn("the report", lambda: _log(parent, summary, files), uri=parent.uri)
    return folder / PAGE


def _log(parent: TrainingRun, summary: Summary, files: dict[str, str]) -> None:
    for name, text in files.items():
        parent.client.log_text(parent.run_id, text, f"report/{name}")
    if summary.best is not None:
        best = {f"best_{key}": value for key, value in summary.best.best.items() if key != "seconds"}
        parent.log_metrics(best | {"trials_ended": float(len(summary.trials))}, step=0)
        parent.set_tags({"sdavs.best_trial": summary.best.id})
