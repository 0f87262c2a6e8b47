"""The report as Markdown and as CSV."""

import csv
import io

from sdavs_model.metrics import fscore_in_words
from sdavs_platform.tuning.folds import FoldScores
from sdavs_platform.tuning.report.architecture_tables import ArchitectureTable
from sdavs_platform.tuning.report.page import (
    ROBUST,
    difference,
    headline,
    plain,
    short,
    spread,
    spread_of,
)
from sdavs_platform.tuning.report.study_tables import PAPER_SETS, Row, resampled, verdicts
from sdavs_platform.tuning.report.summary import Summary
from sdavs_platform.tuning.store import clock

COLUMNS = ("val_miou", "val_fscore", "epoch", "latency_ms", "gmacs", "parameters_m")


def markdown(summary: Summary) -> str:
    """The tables of the report as Markdown, for a pull request or a notebook."""
    lines = [f"# {summary.sweep.name}", "", f"{headline(summary)}; commit {summary.git_commit}", ""]
    if summary.architectures:
        lines += [
            "Differences are paired with the first model, in points, with 95 % bootstrap intervals over seeds and",
            "clips.",
            "Marked: pixels of the clips, in per cent, that a model calls sounding while nothing in them sounds.",
            "G-mIoU, G-F and G-FPR: AVSBench-Robust's combined figures, as jobs/evaluate.py computes them.",
            "",
        ]
    if summary.tables:
        lines += [
            "Differences are paired with the full model, in points, with 95 % bootstrap intervals over seeds and "
            f"{resampled(summary.tables)}.",
            "**The paper's columns are on other data** (AVSBench, Swin-B, 384 px).",
            "",
        ]
    lines += [f"Of binary masks: {fscore_in_words()}.", ""]
    for table in summary.tables:
        lines += [f"## {table.title}, on {table.split}", ""]
        paper = " | ".join(f"paper {name}: J / F" for name in PAPER_SETS)
        lines += [f"| recipe | seeds | J | Δ J [95 %] | F | Δ F [95 %] | {paper} |", "|---|" + "---:|" * 7]
        lines += [_markdown_row(row) for row in table.rows]
        lines.append("")
        if gaps := [row for row in table.rows if row.gap is not None]:
            lines += ["| recipe | J - J swapped | Δ [95 %] |", "|---|---:|---:|"]
            lines += [
                f"| {row.recipe} | {spread(row.gap)} | {difference(row.gap)} |" for row in gaps if row.gap
            ]
            lines.append("")
    if summary.tables:
        lines += ["## What the study shows", "", *(f"- {text}" for text in verdicts(summary.tables)), ""]
    for noise in summary.noise:
        lines += [f"## Table IX: noise, on {noise.split}", ""]
        lines += ["| recipe | sound | J | loss [95 %] | F | paper MS3: J / F |", "|---|---|" + "---:|" * 4]
        for row in noise.rows:
            scores = ["-"] * 3
            if row.miou is not None and row.fscore is not None:
                scores = [spread(row.miou), difference(row.miou), spread(row.fscore)]
            paper = "{:.1f} / {:.1f}".format(*row.paper)
            lines.append(f"| {row.recipe} | {row.sound} | {' | '.join(scores)} | {paper} |")
        lines.append("")
    for compared in summary.architectures:
        lines += _architectures(compared)
    if summary.folds is not None:
        lines += _folds(summary.folds)
    if summary.best is not None and summary.folds is None:
        lines += [
            "## Best configuration",
            "",
            f"{summary.best.id}, J {summary.best.best['val_miou']:.3f}",
            "",
        ]
        lines += [summary.best_caveat, ""] if summary.best_caveat else []
        lines += ["```yaml", summary.best_values_yaml().rstrip(), "```", ""]
    if summary.study is None and summary.front:
        quality, cost = summary.trade_off
        lines += [f"## Pareto front: {quality} against {cost}", ""]
        lines += [f"| trial | {cost} | {quality} |", "|---|---:|---:|"]
        lines += [f"| {t.id} | {t.best[cost]:.4g} | {t.best[quality]:.3f} |" for t in summary.front]
        lines.append("")
    lines += ["## Trials", "", "| trial | state | J | F | time | values |", "|---|---|---:|---:|---:|---|"]
    for trial in summary.ranked:
        scores = [
            f"{trial.best[key]:.3f}" if key in trial.best else "-" for key in ("val_miou", "val_fscore")
        ]
        values = ", ".join(f"`{key}` {short(value)}" for key, value in trial.values.items())
        lines.append(
            f"| {trial.id} | {trial.state} | {' | '.join(scores)} | {clock(trial.seconds)} | {values} |"
        )
    if summary.failures:
        lines += ["", "## Failures", "", *(f"- {trial.id}: {trial.error}" for trial in summary.failures)]
    lines += ["", "## Reproduce", ""]
    for why, command in summary.commands():
        lines += [f"{why}:", "", f"    {command}", ""]
    return "\n".join(lines)


def _folds(folds: FoldScores) -> list[str]:
    """The table of a cross-validation."""
    lines = [
        "## Cross-validation",
        "",
        "Each fold is scored by the model that was trained on the others.",
        "",
    ]
    lines += ["| fold | seed | J | F |", "|---:|---:|---:|---:|"]
    lines += [f"| {fold} | {seed} | {s['miou']:.3f} | {s['fscore']:.3f} |" for fold, seed, s in folds.rows]
    both = [f"{folds.mean[name]:.3f} ± {folds.spread[name]:.3f}" for name in ("miou", "fscore")]
    return [*lines, f"| mean ± sd | | {' | '.join(both)} |", ""]


def _architectures(table: ArchitectureTable) -> list[str]:
    """One table of a study of architectures."""
    sounds = [f"marked with {sound} | Δ [95 %]" for sound in table.sounds]
    titles = ["model", "seeds", "J", "Δ J [95 %]", "F", "Δ F [95 %]", *sounds]
    titles += [*ROBUST.values(), "parameters, M", "MACs, G", "clips/s"]
    lines = [f"## Architectures, on {table.split}", "", f"| {' | '.join(titles)} |"]
    lines += ["|---|" + "---:|" * (len(" | ".join(titles).split(" | ")) - 1)]
    for row in table.rows:
        scores = ["-", "not finished", "-", "-", "-"]
        if row.miou is not None and row.fscore is not None:
            scores = [str(row.miou.num_seeds), spread(row.miou), difference(row.miou)]
            scores += [spread(row.fscore), difference(row.fscore)]
        for sound in table.sounds:
            marked = row.fpr.get(sound)
            scores += ["-", "-"] if marked is None else [spread(marked), difference(marked)]
        scores += [spread_of(row.robust.get(name)) for name in ROBUST]
        scores += [plain(value) for value in (row.parameters_m, row.gmacs, row.clips_per_s)]
        lines.append(f"| {row.variant}: {row.about} | {' | '.join(scores)} |")
    return [*lines, ""]


def trials_csv(summary: Summary) -> str:
    """One line per trial: identity, values, best validation, cost, test scores."""
    splits = list(summary.config.data.test_splits)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    tests = [f"{split}_{metric}" for split in splits for metric in ("miou", "fscore")]
    writer.writerow(["trial", "state", *summary.keys, *COLUMNS, *tests, "seconds", "run_id", "error"])
    for trial in summary.trials:
        values = [trial.values.get(key, "") for key in summary.keys]
        best = [trial.best.get(column, "") for column in COLUMNS]
        scores = [trial.mean_score(split, metric) for split in splits for metric in ("miou", "fscore")]
        writer.writerow(
            [
                trial.id,
                trial.state,
                *values,
                *best,
                *scores,
                round(trial.seconds, 1),
                trial.run_id,
                trial.error,
            ]
        )
    return out.getvalue()


def _markdown_row(row: Row) -> str:
    papers = ["{:.1f} / {:.1f}".format(*row.paper[name]) if name in row.paper else "-" for name in PAPER_SETS]
    if row.miou is None or row.fscore is None:
        cells = ["-", "not finished", "-", "-", "-"]
    else:
        cells = [
            str(row.miou.num_seeds),
            spread(row.miou),
            difference(row.miou),
            spread(row.fscore),
            difference(row.fscore),
        ]
    return f"| {row.recipe} | {' | '.join([*cells, *papers])} |"
