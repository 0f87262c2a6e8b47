"""The evaluation of a registered model on the splits of a data set, as data and as a table."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sdavs_model import LoadedModel, load_artifact
from sdavs_model.data.avsbench import META_FILE, AVSBenchMS3, find_layout, read_table
from sdavs_model.engine import AudioControl
from sdavs_platform.bundled import bundled_data
from sdavs_platform.evaluation import best_constant, score
from sdavs_platform.tracking.client import tracking_uri
from sdavs_platform.tracking.registry import fetch, resolve
from sdavs_platform.tracking.runs import TrainingRun

CONTROLS: tuple[AudioControl, ...] = ("right", "muted", "swapped")


def evaluate_registered(
    model_uri: str,
    *,
    blind_uri: str | None = None,
    root: str | None = None,
    splits: Sequence[str] | None = None,
    train_split: str = "train",
    device: str = "cpu",
    uri: str | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Score a model, and what it should be compared with, on every split.

    Args:
        model_uri: such as models:/sdavs@champion.
        blind_uri: a model trained on silence; scored muted.
        root: data set; None for the bundled one.
        splits: None for all whose name starts with "test".
        uri: MLflow; None for the default.
        say: told what is being done.

    Returns:
        {"model", "version", "run_id", "blind", "data", "splits": {split: {row: {"miou", "fscore"}}}, "constants"}.

    Raises:
        ValueError: no such model, split or file; a model that does not verify.
    """
    data = Path(root) if root else bundled_data(say=say)
    splits = list(splits) if splits else test_splits(data)
    registered = resolve(model_uri, uri=uri)
    loaded = load_artifact(fetch(model_uri, uri=uri), device=device, sha256=registered.sha256)
    blind = load_artifact(fetch(blind_uri, uri=uri), device=device) if blind_uri else None
    rows: dict[str, dict[str, dict[str, float]]] = {}
    constants: dict[str, str] = {}
    for split in splits:
        clips = _open(data, split, loaded)
        rows[split] = {}
        for control in CONTROLS:
            say(f"{split}: {len(clips)} clips, {control} audio")
            rows[split][f"{control} audio"] = score(loaded.model, clips, audio=control, device=device)
        if blind:
            rows[split]["audio-blind copy"] = score(
                blind.model, _open(data, split, blind), audio="muted", device=device
            )
        constant = best_constant(_open(data, train_split, loaded), clips)
        rows[split]["best constant mask"] = constant.scores
        constants[split] = constant.kind
    return {
        "model": model_uri,
        "version": registered.version,
        "run_id": registered.run_id,
        "blind": blind_uri,
        "data": str(data),
        "splits": rows,
        "constants": constants,
    }


def log_report(report: dict[str, Any], *, uri: str | None = None) -> None:
    """Add the figures to the MLflow run that made the model."""
    run = TrainingRun(uri=tracking_uri(uri), run_id=report["run_id"])
    run.log_metrics(
        {
            f"test/{split}/{row.replace(' ', '_')}/{name}": value
            for split, scored in report["splits"].items()
            for row, scores in scored.items()
            for name, value in scores.items()
        },
        step=0,
    )
    run.client.log_dict(run.run_id, report, "evaluation.json")


def report_table(report: dict[str, Any]) -> str:
    """One block per split; splits are never averaged together."""
    lines = [f"{report['model']} (version {report['version']}) on {report['data']}"]
    for split, scored in report["splits"].items():
        lines += ["", f"{split:<24}{'J':>8}{'F':>8}"]
        lines += [f"  {row:<22}{s['miou']:>8.3f}{s['fscore']:>8.3f}" for row, s in scored.items()]
        lines.append(f"  (constant: {report['constants'][split]})")
    return "\n".join(lines)


def _open(data: Path, split: str, loaded: LoadedModel) -> AVSBenchMS3:
    return AVSBenchMS3(
        root=data, split=split, preprocessor=loaded.preprocessor, num_frames=loaded.config.num_frames
    )


def test_splits(data: Path) -> list[str]:
    """The splits of a data set whose name starts with "test". Raises ValueError if there is none."""
    layout = find_layout(data)
    found = sorted({split for split in read_table(layout / META_FILE).values() if split.startswith("test")})
    if not found:
        raise ValueError(f"{layout / META_FILE}: no split whose name starts with test; name one with --split")
    return found
