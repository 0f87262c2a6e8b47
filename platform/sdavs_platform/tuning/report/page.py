"""The report as one self-contained HTML file that works without a network."""

import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from sdavs_model.metrics import fscore_in_words
from sdavs_platform.config.cli import yaml_text
from sdavs_platform.tuning.report import charts
from sdavs_platform.tuning.report.comparison import Comparison
from sdavs_platform.tuning.report.study_tables import resampled, verdicts
from sdavs_platform.tuning.report.summary import MIN_TRIALS, Summary
from sdavs_platform.tuning.store import ENDED, clock
from sdavs_platform.tuning.sweep import METRICS

HERE = Path(__file__).parent


def render(summary: Summary, *, uri: str, candidate: dict[str, str] | None) -> str:
    """The page.

    Args:
        uri: address of the records.
        candidate: {"model", "version", ...} of the registered best trial, if there is one.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    tables = [
        (table, _chart(charts.differences(table), f"differences-{index}"))
        for index, table in enumerate(summary.tables)
    ]
    drawn = {
        "curves": _chart(charts.learning_curves(summary) if _has_reports(summary) else None, "curves-chart"),
        "parallel": _chart(charts.parallel_coordinates(summary), "parallel-chart"),
        "importance": _chart(charts.importance_bars(summary), "importance-chart"),
        "pareto": _chart(charts.pareto(summary), "pareto-chart"),
    }
    sections = [
        *([("ablation", "Ablation")] if summary.tables else []),
        *([("noise", "Noise")] if summary.noise else []),
        *([("architectures", "Architectures")] if summary.architectures else []),
        *([("folds", "Cross-validation")] if summary.folds else []),
        ("best", "Best configuration"),
        ("curves", "Learning curves"),
        *([("parallel", "Values and results")] if drawn["parallel"] else []),
        *([("importance", "Importance")] if drawn["importance"] else []),
        *([("cost", "Quality against cost")] if drawn["pareto"] else []),
        ("searched", "Search"),
        ("trials", "Trials"),
        ("failures", "Failures"),
        ("again", "Reproduce"),
    ]
    return environment.get_template("page.html.j2").render(
        s=summary,
        css=Markup((HERE / "page.css").read_text()),
        # "</script>" inside the library's own strings would end the element.
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")),
        built=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        uri=uri,
        candidate=candidate,
        headline=headline(summary),
        fscore=fscore_in_words(),
        resampled=resampled(summary.tables),
        verdicts=verdicts(summary.tables),
        unfinished=any(trial.state not in ENDED for trial in summary.trials),
        tiles=_tiles(summary),
        tables=tables,
        charts=drawn,
        sections=sections,
        min_trials=MIN_TRIALS,
        metrics=METRICS,
        spread=spread,
        spread_of=spread_of,
        robust=ROBUST,
        delta=_delta,
        clock=clock,
        short=short,
        plain=plain,
    )


ROBUST = {"g_miou": "G-mIoU", "g_fscore": "G-F", "g_fpr": "G-FPR"}
"""The titles of AVSBench-Robust's combined figures, by their names in `combined_scores`."""


def headline(summary: Summary) -> str:
    """`7 finished, 1 failed`."""
    return (
        ", ".join(f"{number} {state}" for state, number in summary.counts.items()) or "no trial has started"
    )


def spread(comparison: Comparison) -> str:
    """Mean and standard deviation in points: `41.2 ± 0.8`."""
    return _in_points(comparison.mean, comparison.std)


def spread_of(values: Sequence[float] | None) -> str:
    """The same of one value a seed; a dash without any."""
    if not values:
        return "-"
    return _in_points(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)


def difference(comparison: Comparison) -> str:
    """`-2.1 [-3.5, -0.6]`, in points; a dash for the full model itself."""
    if comparison.difference is None or comparison.low is None or comparison.high is None:
        return "-"
    low, high = 100 * comparison.low, 100 * comparison.high
    return f"{100 * comparison.difference:+.1f} [{low:+.1f}, {high:+.1f}]"


def short(value: Any) -> str:
    """A value of the config tree, shortened."""
    return f"{value:.4g}" if isinstance(value, float) else yaml_text(value)


def plain(value: float | None) -> str:
    """A cost with three digits; a dash where it is not known."""
    return "-" if value is None else f"{value:.3g}"


def _delta(comparison: Comparison) -> Markup:
    return Markup('<td class="{}">{}</td>').format(
        "clear" if comparison.is_clear else "", difference(comparison)
    )


def _tiles(summary: Summary) -> list[tuple[str, str, str]]:
    """(label, value, note) of the key figures on top."""
    tiles = []
    if summary.best is not None:
        tiles.append(("best J, validation", f"{summary.best.best['val_miou']:.3f}", summary.best.id))
    tiles.append(("trials", str(len(summary.trials)), headline(summary)))
    seconds = sum(trial.seconds for trial in summary.trials)
    tiles.append(
        (
            "training time of all trials",
            clock(seconds),
            "hours:minutes:seconds" if seconds >= 3600 else "minutes:seconds",
        )
    )
    for table in summary.tables[:1]:
        full = next((row.miou for row in table.rows if row.recipe == "full" and row.miou), None)
        if full is not None:
            tiles.append(
                (
                    f"J of the full model, {table.split}",
                    spread(full),
                    f"{full.num_clips} clips, {full.num_seeds} seeds",
                )
            )
    return tiles


def _chart(figure: Any, name: str) -> str | None:
    return None if figure is None else charts.figure_html(figure, name)


def _has_reports(summary: Summary) -> bool:
    return any(trial.reports for trial in summary.trials)


def _in_points(mean: float, std: float | None) -> str:
    return f"{100 * mean:.1f}" if std is None else f"{100 * mean:.1f} ± {100 * std:.1f}"
