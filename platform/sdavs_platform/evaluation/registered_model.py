"""Evaluates a registered model on the splits of a data set; the results as data, as a table, and in MLflow."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sdavs_model import LoadedModel, load_artifact
from sdavs_model.audio_control import AudioControl, AudioControlled, ReplacedSound, swap_partners
from sdavs_model.cpu_memory import keep_freed_memory
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.data.core.workers import in_processes
from sdavs_model.data.datasets import known_kind, splits_of
from sdavs_model.data.realav.build import OPTIONAL_SPLITS
from sdavs_model.data.training_clips import TrainingClips, open_training_clips
from sdavs_model.metrics import Mode, ObjectMetrics, protocol_in_words
from sdavs_model.metrics.base import LABELS
from sdavs_model.metrics.listening import SoundMetrics
from sdavs_platform import console
from sdavs_platform.evaluation.flips import IN_WORDS, Flipped, with_flips
from sdavs_platform.evaluation.listening import (
    BLIND,
    ORACLE,
    Intervals,
    flat_intervals,
    intervals_of,
    left_out_text,
    listening_text,
    robust_scores,
    score_deaf_oracle,
    sounds_of,
)
from sdavs_platform.evaluation.scorers import Scorers
from sdavs_platform.evaluation.scoring import best_constant, score, score_sound, score_sounds
from sdavs_platform.storage.datasets import bundled_data, local_copy
from sdavs_platform.tables import text_table
from sdavs_platform.tracking.client import require_mlflow, tracking_uri
from sdavs_platform.tracking.registry import fetch, resolve
from sdavs_platform.tracking.runs import TrainingRun

logger = logging.getLogger(__name__)

CONTROLS: tuple[AudioControl, ...] = ("right", "muted", "swapped")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a split is scored; see `evaluate_registered`."""

    blind: tuple[LoadedModel, TrainingClips] | None
    """The audio-blind model with its clips of the split."""
    mode: Mode
    videos_per_batch: int
    device: str
    scorers: Scorers | None

    def metrics(self) -> SoundMetrics:
        """Empty metrics for one sound."""
        return SoundMetrics(mode=self.mode, videos_per_batch=self.videos_per_batch)


@dataclass
class SplitReport:
    """The results of one split."""

    protocol: str
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    constant: str = ""
    robust: dict[str, float] = field(default_factory=dict)
    intervals: Intervals = field(default_factory=dict)
    over: str = ""
    left_out: dict[str, str] = field(default_factory=dict)


def evaluate_registered(
    model_uri: str,
    *,
    blind_uri: str | None = None,
    root: str | None = None,
    kind: str = "auto",
    mode: Mode = "official",
    videos_per_batch: int = 1,
    splits: Sequence[str] | None = None,
    train_split: str = "train",
    device: str = "cpu",
    uri: str | None = None,
    scorers: Scorers | None = None,
    processes: int = 1,
    flips: bool = False,
) -> dict[str, Any]:
    """Score a model, and the baselines it should be compared with, on every split.

    Args:
        model_uri: such as models:/sdavs@champion.
        blind_uri: an audio-blind model, trained on silence; scored on silence.
        root: data set; None for the bundled one.
        kind: type of the data set; "auto" finds it from the folder.
        mode: the figures of the protocol's official scripts, with their quirks, or the corrected ones.
        videos_per_batch: AVSBench-object's official F alone: how many videos share a best threshold.
        splits: None for all whose name starts with "test".
        uri: MLflow; None for the default.
        scorers: workers of a cluster that share the clips, to the same figures; None for this process alone.
        processes: how many splits are scored at the same time, each by a process of its own, which share the compute
            threads of this one; not with `scorers`.
        flips: average predictions with those of mirrored frames; reported as such.

    Returns:
        {"model", "version", "run_id", "blind", "data", "kind", "protocol", "mode", "flips",
        "videos_per_batch", "splits": {split: {row: {figure: value}}}, "constants", "robust", "intervals", "over",
        "left_out"}, the last five by split.
        AVSBench-object alone has them: the kind of the best constant mask (of 71 classes it is background);
        AVSBench-Robust's combined figures; {row: {"mean", "low", "high"}} of J, and what the bootstrap resampled; and
        {row: reason} of rows that the data set does not allow.

    Raises:
        ValueError: no such model, split or file; a model that fails verification, or has other classes;
            or MLflow does not respond.
    """
    require_mlflow(tracking_uri(uri))
    data = local_copy(root) if root else bundled_data()
    kind = known_kind(kind, data)
    splits = list(splits) if splits else test_splits(data, kind)
    registered = resolve(model_uri, uri=uri)
    task = _Task(
        folder=fetch(model_uri, uri=uri),
        sha256=registered.sha256,
        blind_folder=fetch(blind_uri, uri=uri) if blind_uri else None,
        kind=kind,
        data=data,
        train_split=train_split,
        mode=mode,
        videos_per_batch=videos_per_batch,
        device=device,
        flips=flips,
    )
    processes = min(processes, len(splits))
    if processes > 1:
        assert scorers is None
        num_threads = max(1, torch.get_num_threads() // processes)
        calls = [(split, task, num_threads) for split in splits]
        found = dict(in_processes(_score_split_apart, calls, processes))
    else:
        models = task.load()
        found = {split: _score_split(split, task, models, scorers) for split in splits}
    reports = {split: found[split] for split in splits}
    return {
        "model": model_uri,
        "version": registered.version,
        "run_id": registered.run_id,
        "blind": blind_uri,
        "data": str(data),
        "kind": kind,
        "protocol": reports[splits[-1]].protocol,
        "mode": mode,
        "flips": flips,
        "videos_per_batch": videos_per_batch,
        "splits": {split: report.rows for split, report in reports.items()},
        "constants": {split: report.constant for split, report in reports.items() if report.constant},
        "robust": {split: report.robust for split, report in reports.items() if report.robust},
        "intervals": {split: report.intervals for split, report in reports.items() if report.intervals},
        "over": {split: report.over for split, report in reports.items() if report.intervals},
        "left_out": {split: report.left_out for split, report in reports.items() if report.left_out},
    }


@dataclass(frozen=True, kw_only=True)
class _Task:
    """All arguments for scoring a split, picklable for another process; see `evaluate_registered`."""

    folder: Path
    sha256: str | None
    blind_folder: Path | None
    kind: str
    data: Path
    train_split: str
    mode: Mode
    videos_per_batch: int
    device: str
    flips: bool

    def load(self) -> tuple[LoadedModel, LoadedModel | None]:
        """The model, and the audio-blind one."""
        loaded = load_artifact(self.folder, device=self.device, sha256=self.sha256)
        blind = load_artifact(self.blind_folder, device=self.device) if self.blind_folder else None
        if self.flips:
            return with_flips(loaded), with_flips(blind) if blind else None
        return loaded, blind


def _score_split(
    split: str, task: _Task, models: tuple[LoadedModel, LoadedModel | None], scorers: Scorers | None
) -> SplitReport:
    """One split, with everything that its protocol requires."""
    loaded, blind = models
    clips = open_for(loaded, task.kind, task.data, split)
    score_split = _score_object if clips.source.protocol == ObjectMetrics.protocol else _score_controls
    setting = Setting(
        blind=(blind, open_for(blind, task.kind, task.data, split)) if blind else None,
        mode=task.mode,
        videos_per_batch=task.videos_per_batch,
        device=task.device,
        scorers=scorers,
    )
    report = score_split(loaded, clips, setting)
    if clips.source.num_classes == 1:
        constant = best_constant(
            open_for(loaded, task.kind, task.data, task.train_split),
            clips,
            mode=task.mode,
            videos_per_batch=task.videos_per_batch,
        )
        report.rows["best constant mask"] = constant.scores
        report.constant = constant.kind
    return report


def _score_split_apart(split: str, task: _Task, num_threads: int) -> tuple[str, SplitReport]:
    """`_score_split` in a separate process."""
    console.configure(to_stderr=True)
    torch.set_num_threads(num_threads)
    keep_freed_memory()
    return split, _score_split(split, task, task.load(), None)


def _score_object(loaded: LoadedModel, clips: TrainingClips, setting: Setting) -> SplitReport:
    """AVSBench-object's figures with every sound that the split allows, of the deaf oracle and the blind model."""
    report = SplitReport(protocol=clips.source.protocol)
    sounds, report.left_out = sounds_of(clips)
    clip_miou: dict[str, dict[str, float]] = {}

    def keep(row: str, metrics: SoundMetrics) -> None:
        report.rows[row] = metrics.compute()
        clip_miou[row] = metrics.clip_miou

    for row, metrics in _score_sounds(loaded, clips, sounds, setting).items():
        keep(row, metrics)
    try:
        keep(
            ORACLE,
            score_deaf_oracle(clips, mode=setting.mode, videos_per_batch=setting.videos_per_batch),
        )
    except ValueError as error:
        report.left_out[ORACLE] = str(error)
    if setting.blind is not None:
        model, blind_clips = setting.blind
        silence = Preprocessor(model.config.preprocess).silence()
        muted = AudioControlled(blind_clips, control="muted", silence=silence)
        keep(BLIND, _score_sound(model, muted, setting))
    assets = dict(zip((files.name for files in clips.source.files), clips.source.assets, strict=True))
    report.robust = robust_scores(report.rows)
    report.intervals, report.over = intervals_of(clip_miou, assets)
    for row, reason in report.left_out.items():
        logger.warning(f"{clips.source.split}: the row {row!r} is left out: {reason}")
    return report


def _score_controls(loaded: LoadedModel, clips: TrainingClips, setting: Setting) -> SplitReport:
    """Another protocol's figures with the right, no and swapped sound."""
    report = SplitReport(protocol=clips.source.protocol)
    options: dict[str, Any] = {
        "mode": setting.mode,
        "videos_per_batch": setting.videos_per_batch,
        "scorers": setting.scorers,
    }
    for control in controls_of(clips):
        logger.info(f"{clips.source.split}: {len(clips)} clips, {control} audio")
        report.rows[f"{control} audio"] = score(
            loaded.model, clips, audio=control, device=setting.device, **options
        )
    if setting.blind is not None:
        model, blind_clips = setting.blind
        report.rows[BLIND] = score(model.model, blind_clips, audio="muted", device=setting.device, **options)
    return report


def _score_sounds(
    loaded: LoadedModel, clips: TrainingClips, sounds: Mapping[str, ReplacedSound], setting: Setting
) -> dict[str, SoundMetrics]:
    """The metrics for each sound; the clips are divided among the workers, one sound after another."""
    if setting.scorers is None and not isinstance(loaded.model, Flipped):
        logger.info(f"{clips.source.split}: {len(clips)} clips, {', '.join(sounds)}")
        metrics = {row: setting.metrics() for row in sounds}
        score_sounds(loaded.model, clips, sounds, metrics=metrics, device=setting.device)
        return metrics
    scored = {}
    for row, heard in sounds.items():
        logger.info(f"{clips.source.split}: {len(clips)} clips, {row}")
        scored[row] = _score_sound(loaded, heard, setting)
    return scored


def _score_sound(loaded: LoadedModel, heard: ReplacedSound, setting: Setting) -> SoundMetrics:
    scored = score_sound(
        loaded.model, heard, metrics=setting.metrics(), device=setting.device, scorers=setting.scorers
    )
    assert isinstance(scored, SoundMetrics)
    return scored


def log_results(results: dict[str, Any], *, uri: str | None = None) -> None:
    """Log the figures to the MLflow run that trained the model; corrected ones under separate names."""
    run = TrainingRun(uri=tracking_uri(uri), run_id=results["run_id"])
    suffix = "" if results["mode"] == "official" else f"_{results['mode']}"
    if results["videos_per_batch"] > 1:
        suffix += f"_{results['videos_per_batch']}_videos"
    if results["flips"]:
        suffix += "_flips"
    metrics = {
        f"{split}/{row.replace(' ', '_')}/{name}": value
        for split, scored in results["splits"].items()
        for row, scores in scored.items()
        for name, value in scores.items()
    }
    for split, scores in results["robust"].items():
        metrics |= {f"{split}/robust/{name}": value for name, value in scores.items()}
    for split, intervals in results["intervals"].items():
        limits = flat_intervals(intervals)
        metrics |= {f"{split}/interval/{name}": value for name, value in limits.items()}
    run.log_metrics({f"test{suffix}/{name}": value for name, value in metrics.items()}, step=0)
    run.client.log_dict(run.run_id, results, f"evaluation{suffix}.json")


def results_table(results: dict[str, Any]) -> str:
    """One table per split; splits are never averaged."""
    protocol = protocol_in_words(
        results["protocol"], mode=results["mode"], videos_per_batch=results["videos_per_batch"]
    )
    if results["flips"]:
        protocol += f"; {IN_WORDS}"
    blocks = [f"{results['model']} (version {results['version']}) on {results['data']}\nprotocol: {protocol}"]
    for split, scored in results["splits"].items():
        # The figures can differ between rows: AVIS has some for silent frames only if there are any.
        names = [name for name in LABELS if any(name in scores for scores in scored.values())]
        rows = [[f"  {row}", *(scores.get(name) for name in names)] for row, scores in scored.items()]
        block = text_table([split, *(LABELS[name] for name in names)], rows)
        if split in results["constants"]:
            block += f"\n  (constant: {results['constants'][split]})"
        below = listening_text(
            robust=results["robust"].get(split, {}),
            intervals=results["intervals"].get(split, {}),
            over=results["over"].get(split, ""),
        )
        blocks.append("\n".join([block, *below, *left_out_text(results["left_out"].get(split, {}))]))
    return "\n\n".join(blocks)


def open_for(loaded: LoadedModel, kind: str, data: Path, split: str) -> TrainingClips:
    """One split, with the preprocessing of a model.

    Raises:
        ValueError: as `open_training_clips`; or the classes of model and data set differ.
    """
    clips = open_training_clips(kind, data, split, loaded.preprocessor, num_frames=loaded.config.num_frames)
    source = clips.source
    if tuple(loaded.classes) != source.classes:
        raise ValueError(
            f"{data}: {source.kind} has the classes {_short(source.classes)}; "
            f"the model predicts {_short(loaded.classes)}"
        )
    return clips


def controls_of(clips: TrainingClips) -> list[AudioControl]:
    """All of `CONTROLS`; without "swapped" where the split has no other sound for some clip."""
    try:
        swap_partners(clips.categories)
    except ValueError as error:
        logger.warning(f"{clips.source.split}: {error}; the row for swapped audio is left out")
        return [control for control in CONTROLS if control != "swapped"]
    return list(CONTROLS)


def test_splits(data: Path, kind: str) -> list[str]:
    """The splits of a data set whose name starts with "test", but for RealAV's wider strict one, whose figures are in
    addition to those of the other two. Raises ValueError if there is none.
    """
    found = sorted(
        split for split in splits_of(kind, data) if split.startswith("test") and split not in OPTIONAL_SPLITS
    )
    if not found:
        raise ValueError(f"{data}: no split whose name starts with test; choose one with --split")
    return found


def _short(classes: Sequence[str]) -> str:
    return f"{', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''} ({len(classes)} in all)"
