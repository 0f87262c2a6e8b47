"""Curves and bar charts of the analyses that compute scores: noise, consistency, listening."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sdavs_model.analysis.sound_conditions import ORIGINAL, factor_condition, snr_condition

Scores = Mapping[str, Mapping[str, float]]
MEASURES = {"miou": "J", "fscore": "F"}
CONSISTENCY = {
    "cka": "CKA (higher: more similar)",
    "kl": "KL, nats (lower: more similar)",
    "js": "JS, nats (lower: more similar)",
}
LISTENING = {
    "miou": "J against the clip's own sound",
    "fscore": "F against the clip's own sound",
    "false_sounding_rate": "false sounding rate (lower is better)",
}
COLOURS = ("tab:blue", "tab:orange", "tab:green")


def noise_curve(
    scores: Mapping[str, Scores],
    noises: Sequence[str],
    snrs_db: Sequence[int],
    factor_snr: Mapping[str, float],
) -> Figure:
    """J and F over the signal-to-noise ratio; one line per noise and model.

    Args:
        scores: model -> condition -> {"miou", "fscore"}; conditions are named by `factor_condition`, `snr_condition`.
        noises: names of the noises.
        snrs_db: the ratios that were scored.
        factor_snr: noise -> the paper's factor in dB, drawn as a marker.
    """
    figure, panels = _panels(len(MEASURES))
    for axes, (key, label) in zip(panels, MEASURES.items(), strict=True):
        for model, line in zip(scores, ("-", "--"), strict=False):
            clean = scores[model][ORIGINAL][key]
            axes.axhline(clean, color="grey", linestyle=line, label=f"no noise, {model}")
            for noise, colour in zip(noises, COLOURS, strict=False):
                curve = {snr: scores[model][snr_condition(noise, snr)][key] for snr in snrs_db}
                marker = {factor_snr[noise]: scores[model][factor_condition(noise)][key]}
                points = sorted((curve | marker).items())
                axes.plot(*zip(*points, strict=True), line, color=colour, label=f"{noise}, {model}")
                axes.plot(*marker.popitem(), "D", color=colour, markersize=6)
        axes.set_xlabel("signal to noise (dB)")
        axes.set_xticks(snrs_db)
        axes.set_ylabel(label)
        axes.margins(y=0.15)
        axes.invert_xaxis()
        axes.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    title = "diamond: the paper's factor"
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, title=title, title_fontsize=8)
    return figure


def consistency_bars(levels: Mapping[str, Scores]) -> Figure:
    """CKA, KL and JS of each level, before and after DAMF side by side.

    Args:
        levels: level -> stage -> {"cka", "kl", "js"}.
    """
    figure, panels = _bar_panels(CONSISTENCY)
    for key, axes in panels.items():
        for offset, stage in ((-0.2, "before"), (0.2, "after")):
            heights = [values[stage][key] for values in levels.values()]
            positions = [number + offset for number in range(len(heights))]
            axes.bar(positions, heights, width=0.4, label=f"{stage} DAMF")
        axes.set_xticks(range(len(levels)), [f"level {level}" for level in levels])
    next(iter(panels.values())).legend(fontsize=8)
    return figure


def listening_bars(conditions: Scores) -> Figure:
    """J, F and the false sounding rate under each sound; no bar where a figure is NaN."""
    figure, panels = _bar_panels(LISTENING)
    for key, axes in panels.items():
        heights = [values[key] for values in conditions.values()]
        bars = axes.bar(
            range(len(heights)), heights, color="tab:red" if key.startswith("false") else "tab:blue"
        )
        axes.bar_label(bars, ["" if h != h else f"{h:.2f}" for h in heights], fontsize=8)
        axes.set_xticks(range(len(heights)), list(conditions), rotation=25, fontsize=8)
        axes.margins(y=0.12)
    return figure


def _bar_panels(titles: Mapping[str, str]) -> tuple[Figure, dict[str, Any]]:
    """A panel for each measure, under its title, with horizontal lines behind the bars."""
    figure, panels = _panels(len(titles))
    for axes, title in zip(panels, titles.values(), strict=True):
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3, axis="y")
    return figure, dict(zip(titles, panels, strict=True))


def _panels(count: int) -> tuple[Figure, Sequence]:
    figure = Figure(figsize=(10.8, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, count, squeeze=False)[0])
