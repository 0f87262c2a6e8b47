"""The charts of the report, made with plotly: each function turns a summary into one figure."""

import math
from typing import Any

import plotly.graph_objects as go
from plotly.io import to_html

from sdavs_platform.config.cli import yaml_text
from sdavs_platform.tuning.report.study_tables import Table
from sdavs_platform.tuning.report.summary import Summary
from sdavs_platform.tuning.space import Dimension
from sdavs_platform.tuning.store import TrialRecord, values_text
from sdavs_platform.tuning.sweep import METRICS

# Okabe and Ito's palette, distinguishable with colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A8A", "#000000")
STATE_COLOURS = {
    "finished": COLOURS[0],
    "stopped": "#B8C4CE",
    "failed": COLOURS[1],
    "running": COLOURS[2],
    "interrupted": COLOURS[4],
}
DASHES = ("solid", "dash")
MAX_AXES = 10


def figure_html(figure: go.Figure, name: str) -> str:
    """A figure as an HTML fragment that fills its container; the page includes plotly once."""
    return to_html(
        figure,
        include_plotlyjs=False,
        full_html=False,
        div_id=name,
        config={"responsive": True, "displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d"]},
    )


def learning_curves(summary: Summary) -> go.Figure:
    """Validation J over epochs of all trials: by variant in a study, else by state with the best on top."""
    figure = _figure(height=420)
    if summary.study is not None:
        for index, variant in enumerate(summary.study.variants):
            group = [t for t in summary.trials if t.variant == variant and t.reports]
            if group:
                line = {"color": COLOURS[index % len(COLOURS)], "dash": DASHES[index // len(COLOURS)]}
                _curve(figure, group, variant, line)
    else:
        for state, colour in STATE_COLOURS.items():
            group = [t for t in summary.trials if t.state == state and t is not summary.best and t.reports]
            if group:
                _curve(figure, group, f"{state} ({len(group)})", {"color": colour, "width": 1.3})
        if summary.best is not None:
            _curve(figure, [summary.best], f"best: {summary.best.id}", {"color": COLOURS[1], "width": 3})
    figure.update_xaxes(title="epoch", rangemode="tozero")
    figure.update_yaxes(title="J, validation")
    return figure


def parallel_coordinates(summary: Summary) -> go.Figure | None:
    """Each ended trial as a line through its values to its result; None with fewer than two."""
    goal = summary.objective
    shown = [t for t in summary.trials if goal in t.best and t.values and t.state in ("finished", "stopped")]
    if summary.study is not None or len(shown) < 2:
        return None
    space = dict(list(summary.sweep.space.items())[: MAX_AXES - 1])
    axes = [_axis(key, d, [t.values[key] for t in shown]) for key, d in space.items()]
    results = [t.best[goal] for t in shown]
    axes.append({"label": goal, "values": results})
    best_is_high = METRICS[goal].mode == "max"
    line = {
        "color": results,
        "colorscale": [[0, "#d3dde6"], [0.5, "#6f9dc2"], [1, "#0b3c6f"]],
        "reversescale": not best_is_high,
        "showscale": True,
        "colorbar": {"title": {"text": goal}, "thickness": 12},
    }
    figure = _figure(height=420)
    # The ends of the axes already have ticks; the extra numbers would overlap them.
    invisible = {"color": "rgba(0, 0, 0, 0)"}
    figure.add_trace(
        go.Parcoords(line=line, dimensions=axes, labelangle=-12, labelside="top", rangefont=invisible)
    )
    figure.update_layout(margin={"l": 80, "r": 30, "t": 90, "b": 30})
    return figure


def importance_bars(summary: Summary) -> go.Figure | None:
    """Which keys the result depends on; None if too few trials have ended."""
    if not summary.importance:
        return None
    keys = [*next(iter(summary.importance.values()))][::-1]
    figure = _figure(height=120 + 34 * len(keys) * len(summary.importance))
    for index, (objective, values) in enumerate(summary.importance.items()):
        figure.add_trace(
            go.Bar(
                y=keys,
                x=[values.get(key, 0.0) for key in keys],
                orientation="h",
                name=objective,
                marker_color=COLOURS[index],
                hovertemplate="%{y}: %{x:.0%}<extra></extra>",
            )
        )
    figure.update_xaxes(title="relative importance", tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(automargin=True)
    return figure


def pareto(summary: Summary) -> go.Figure | None:
    """Quality against cost with the Pareto front; None without results."""
    quality, cost = summary.trade_off
    scored = [t for t in summary.trials if quality in t.best and cost in t.best]
    if not scored:
        return None
    figure = _figure(height=420)
    groups: dict[str, list[TrialRecord]] = {}
    for trial in scored:
        groups.setdefault(trial.variant or trial.state, []).append(trial)
    for index, (name, group) in enumerate(groups.items()):
        figure.add_trace(
            go.Scatter(
                x=[t.best[cost] for t in group],
                y=[t.best[quality] for t in group],
                mode="markers",
                name=name,
                marker={"size": 10, "color": STATE_COLOURS.get(name, COLOURS[index % len(COLOURS)])},
                text=[_hover(t) for t in group],
                hovertemplate=f"%{{text}}<br>{cost} %{{x:.4g}}, {quality} %{{y:.3f}}<extra></extra>",
            )
        )
    front = summary.front
    figure.add_trace(
        go.Scatter(
            x=[t.best[cost] for t in front],
            y=[t.best[quality] for t in front],
            mode="lines",
            name="Pareto front",
            line={"color": "#444", "shape": "hv", "dash": "dot"},
            hoverinfo="skip",
        )
    )
    figure.update_xaxes(title=METRICS[cost].label)
    figure.update_yaxes(title=METRICS[quality].label.split(" on ")[0] + ", validation")
    return figure


def differences(table: Table) -> go.Figure | None:
    """Each recipe's difference from the full model with its interval; None without one."""
    rows = [row for row in table.rows if row.miou is not None and row.miou.difference is not None]
    if not rows:
        return None
    rows = rows[::-1]
    figure = _figure(height=130 + 44 * len(rows))
    compared = [row.miou for row in rows if row.miou is not None]
    figure.add_vline(x=0, line={"color": "#444", "width": 1})
    figure.add_trace(
        go.Scatter(
            x=[100 * (c.difference or 0) for c in compared],
            y=[row.recipe for row in rows],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [100 * ((c.high or 0) - (c.difference or 0)) for c in compared],
                "arrayminus": [100 * ((c.difference or 0) - (c.low or 0)) for c in compared],
                "thickness": 2,
            },
            mode="markers",
            name="here, with 95 % interval",
            marker={"size": 11, "color": COLOURS[0]},
            hovertemplate="%{y}: %{x:+.1f} points<extra></extra>",
        )
    )
    for name, symbol in (("MS3", "diamond-open"), ("S4", "square-open")):
        figure.add_trace(
            go.Scatter(
                x=[row.paper_difference.get(name) for row in rows],
                y=[row.recipe for row in rows],
                mode="markers",
                name=f"paper, {name} (other data)",
                marker={"size": 10, "color": "#8A8A8A", "symbol": symbol},
                hovertemplate="%{y}, paper: %{x:+.1f} points<extra></extra>",
            )
        )
    ends = [100 * bound for c in compared for bound in (c.low or 0, c.high or 0)]
    ends += [value for row in rows for value in row.paper_difference.values()] + [0.0]
    margin = 0.06 * (max(ends) - min(ends))
    figure.update_xaxes(
        title="Δ J from the full model, points",
        range=[min(ends) - margin, max(ends) + margin],
        zeroline=False,
    )
    figure.update_yaxes(automargin=True)
    return figure


def _figure(*, height: int) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        template="plotly_white",
        height=height,
        font={"family": "system-ui, sans-serif", "size": 13},
        margin={"l": 60, "r": 20, "t": 20, "b": 60},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        hoverlabel={"align": "left"},
    )
    return figure


def _curve(figure: go.Figure, trials: list[TrialRecord], name: str, line: dict[str, Any]) -> None:
    """One trace for many trials, with gaps between them: a browser cannot handle a thousand traces."""
    epochs: list[float | None] = []
    values: list[float | None] = []
    texts: list[str | None] = []
    for trial in trials:
        epochs += [*(report["epoch"] for report in trial.reports), None]
        values += [*(report["val_miou"] for report in trial.reports), None]
        texts += [*([_hover(trial)] * len(trial.reports)), None]
    figure.add_trace(
        go.Scatter(
            x=epochs,
            y=values,
            text=texts,
            name=name,
            line=line,
            mode="lines+markers" if len(trials) <= 5 else "lines",
            marker={"size": 5},
            hovertemplate="%{text}<br>epoch %{x}: J %{y:.3f}<extra></extra>",
        )
    )


def _hover(trial: TrialRecord) -> str:
    return f"<b>{trial.id}</b><br>{values_text(trial.values).replace('  ', '<br>')}"


def _axis(key: str, dimension: Dimension, values: list[Any]) -> dict[str, Any]:
    """One axis of the parallel coordinates, which support only numbers on a linear scale."""
    label = key.rsplit(".", 1)[-1]
    if dimension.kind == "choice":
        names = [yaml_text(value) for value in dimension.extremes]
        return {
            "label": label,
            "values": [dimension.extremes.index(value) for value in values],
            "tickvals": list(range(len(names))),
            "ticktext": names,
            "range": [-0.2, len(names) - 0.8],
        }
    if not dimension.is_logarithmic:
        return {"label": label, "values": values, "range": list(dimension.extremes)}
    low, high = (math.log10(bound) for bound in dimension.extremes)
    ticks = [low + (high - low) * step / 4 for step in range(5)]
    return {
        "label": label,
        "values": [math.log10(value) for value in values],
        "range": [low, high],
        "tickvals": ticks,
        "ticktext": [f"{10**tick:.2g}" for tick in ticks],
    }
