"""The inputs of an analysis: a verified model, a split of a data set, and which of its clips to use."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from sdavs_model import LoadedModel, SegmentationModel, load_artifact
from sdavs_model.data.datasets import known_kind
from sdavs_model.data.training_clips import TrainingClips, open_training_clips
from sdavs_platform.console import track
from sdavs_platform.evaluation.registered_model import test_splits
from sdavs_platform.storage.datasets import bundled_data, local_copy
from sdavs_platform.tracking.client import require_mlflow, tracking_uri
from sdavs_platform.tracking.registry import fetch_version, resolve

NUM_PICTURED = 4
"""Clips per plot."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model that is analysed."""

    address: str
    """As the user wrote it."""
    name: str
    """Name and version, such as sdavs-3; for a folder its name and the beginning of the weights' digest."""
    run_id: str | None
    """The MLflow run that trained it; None for a folder."""
    loaded: LoadedModel


@dataclass(frozen=True, kw_only=True)
class AnalysisInputs:
    """A model and the clips on which it is analysed."""

    subject: Subject
    data: Path
    split: str
    clips: TrainingClips
    """The whole split, because any of its sounds may be swapped into another clip."""
    indices: tuple[int, ...]
    """The clips that are analysed."""
    seed: int
    device: str

    @property
    def model(self) -> SegmentationModel:
        """In eval mode, on `device`."""
        return self.subject.loaded.model

    @property
    def head(self) -> dict[str, Any]:
        """The first entries of every report."""
        return {
            "model": self.subject.address,
            "name": self.subject.name,
            "sha256": self.subject.loaded.sha256,
            "run_id": self.subject.run_id,
            "data": str(self.data),
            "split": self.split,
            "num_clips": len(self.indices),
            "seed": self.seed,
        }

    @property
    def title(self) -> str:
        """The first line of every table."""
        return f"{self.subject.name}, split {self.split}, {len(self.indices)} clips"

    def walk(self, stage: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """(index, item) of each clip, showing progress."""
        for index in track(self.indices, stage, total=len(self.indices)):
            yield index, self.clips[index]

    def tensors(self, item: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's two arguments for one item: [1, T, 3, S, S] and [1, T, 1, 96, 64]."""
        return item["frames"][None].to(self.device), item["log_mel"][None].to(self.device)


class Gallery:
    """Picks a few clips to plot during the pass over the data: spread over the split, each with a sounding object."""

    def __init__(self, inputs: AnalysisInputs, *, num_clips: int = NUM_PICTURED) -> None:
        self._every = max(1, len(inputs.indices) // num_clips)
        self._num_clips = num_clips
        self._seen = 0
        self.shown: list[Any] = []
        """What is plotted; the caller appends to it when `turn` picks a clip."""

    def turn(self, masks: torch.Tensor) -> int | None:
        """The second to plot of the current clip: the one with the most sounding pixels; None if it is not picked.

        Args:
            masks: sounding objects, [T, H, W] bool.
        """
        due = self._seen >= len(self.shown) * self._every
        self._seen += 1
        if not due or len(self.shown) == self._num_clips or not masks.any():
            return None
        return int(masks.flatten(1).sum(1).argmax())

    def drawn(self, name: str, draw: Callable[[list[Any]], Figure]) -> dict[str, Figure]:
        """{name: plot}; empty if no clip has a sounding object."""
        return {name: draw(self.shown)} if self.shown else {}


def open_subject(address: str, *, device: str, uri: str | None) -> Subject:
    """A registered model (`models:/NAME@ALIAS`, `models:/NAME/NUMBER`) or the folder of an artifact.

    Raises:
        ValueError: not registered, no such folder, verification fails, or MLflow does not respond.
    """
    if address.startswith("models:"):
        require_mlflow(tracking_uri(uri))
        found = resolve(address, uri=uri)
        loaded = load_artifact(fetch_version(found, uri=uri), device=device, sha256=found.sha256)
        name = f"{found.name}-{found.version}"
        return Subject(address=address, name=name, run_id=found.run_id or None, loaded=loaded)
    folder = Path(address)
    if not folder.is_dir():
        raise ValueError(
            f"--model: {address!r} is neither a folder nor models:/NAME@ALIAS or models:/NAME/NUMBER"
        )
    loaded = load_artifact(folder, device=device)
    name = f"{folder.resolve().name}-{loaded.sha256[:8]}"
    return Subject(address=address, name=name, run_id=None, loaded=loaded)


def open_inputs(
    subject: Subject,
    *,
    root: str | None,
    split: str | None,
    limit: int | None,
    seed: int,
    device: str,
) -> AnalysisInputs:
    """The clips to analyse a subject on, with the subject's own preprocessing.

    Args:
        root: data set; None for the bundled one.
        split: None for the first whose name starts with "test".
        limit: number of clips, spread evenly over the split; None for all.

    Raises:
        ValueError: no such data set or split, a broken file, a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit: {limit} is not allowed; allowed: 1 or more")
    data = local_copy(root) if root else bundled_data()
    kind = known_kind("auto", data)
    split = split or test_splits(data, kind)[0]
    loaded = subject.loaded
    clips = open_training_clips(kind, data, split, loaded.preprocessor, num_frames=loaded.config.num_frames)
    num_clips = min(limit or len(clips), len(clips))
    return AnalysisInputs(
        subject=subject,
        data=data,
        split=split,
        clips=clips,
        indices=tuple(i * len(clips) // num_clips for i in range(num_clips)),
        seed=seed,
        device=device,
    )
