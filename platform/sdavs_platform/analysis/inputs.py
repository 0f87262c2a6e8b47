"""What an analysis works on: a verified model, a split of a data set, and which of its clips."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from sdavs_model import LoadedModel, load_artifact
from sdavs_model.data.datasets import known_kind, splits_of
from sdavs_model.data.training_clips import TrainingClips, open_training_clips
from sdavs_platform.storage.datasets import bundled_data, local_copy
from sdavs_platform.tracking.registry import fetch_version, resolve

NUM_PICTURED = 4
"""Clips in a picture."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model under study."""

    address: str
    """As the user wrote it."""
    name: str
    """Name and version, such as sdavs-3; for a folder its name and the beginning of the weights' digest."""
    run_id: str | None
    """The MLflow run that made it; None for a folder."""
    loaded: LoadedModel


@dataclass(frozen=True, kw_only=True)
class AnalysisInputs:
    """A subject and the clips it is shown."""

    subject: Subject
    data: Path
    split: str
    clips: TrainingClips
    """The whole split, because the sound of any of its clips may be lent to another."""
    indices: tuple[int, ...]
    """The clips that are looked at."""
    seed: int
    device: str

    @property
    def model(self) -> torch.nn.Module:
        """In eval mode, on `device`."""
        return self.subject.loaded.model

    @property
    def head(self) -> dict[str, Any]:
        """What every report says first."""
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

    def walk(self, doing: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """(index, item) of each clip, with a progress bar on a terminal."""
        console = Console(stderr=True)
        for index in track(self.indices, doing, console=console, disable=not console.is_terminal):
            yield index, self.clips[index]

    def tensors(self, item: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's two arguments for one item: [1, T, 3, S, S] and [1, T, 1, 96, 64]."""
        return item["frames"][None].to(self.device), item["log_mel"][None].to(self.device)


class Gallery:
    """Chooses a few clips to picture while the data pass by: spread over the split, each with something sounding."""

    def __init__(self, inputs: AnalysisInputs, *, num_clips: int = NUM_PICTURED) -> None:
        self._every = max(1, len(inputs.indices) // num_clips)
        self._num_clips = num_clips
        self._seen = 0
        self.shown: list[Any] = []
        """What will be drawn; the caller appends to it when it is a clip's turn."""

    def turn(self, masks: torch.Tensor) -> int | None:
        """Whether the clip that passes by shall be pictured, and in which second: the one in which most sounds.

        Args:
            masks: [T, H, W] bool.
        """
        due = self._seen >= len(self.shown) * self._every
        self._seen += 1
        if not due or len(self.shown) == self._num_clips or not masks.any():
            return None
        return int(masks.flatten(1).sum(1).argmax())

    def drawn(self, name: str, draw: Callable[[list[Any]], Figure]) -> dict[str, Figure]:
        """{name: the picture}; nothing where no clip of the inputs shows anything that sounds."""
        return {name: draw(self.shown)} if self.shown else {}


def open_subject(address: str, *, device: str, uri: str | None) -> Subject:
    """A registered model (`models:/NAME@ALIAS`, `models:/NAME/NUMBER`) or the folder of an artifact.

    Raises:
        ValueError: not registered, no such folder, or it does not verify.
    """
    if address.startswith("models:"):
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
    say: Callable[[str], None],
) -> AnalysisInputs:
    """The clips for a subject, made with the subject's own preprocessing.

    Args:
        root: data set; None for the bundled one.
        split: None for the first whose name starts with "test".
        limit: so many clips, spread evenly over the split; None for all.

    Raises:
        ValueError: no such data set or split, a broken file, a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit: {limit} is not allowed; allowed: 1 or more")
    data = local_copy(root) if root else bundled_data(say=say)
    kind = known_kind("auto", data)
    split = split or _first_test_split(data, splits_of(kind, data))
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


def _first_test_split(data: Path, splits: tuple[str, ...]) -> str:
    tests = sorted(split for split in splits if split.startswith("test"))
    if not tests:
        raise ValueError(
            f"{data}: no split whose name starts with test; name one of {', '.join(splits)} with --split"
        )
    return tests[0]
