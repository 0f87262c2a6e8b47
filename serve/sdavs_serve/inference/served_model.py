"""A registered model in memory: fetch, check, load, predict masks. No Serve, no HTTP."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sdavs_platform.config.serve import ServeConfig
from sdavs_platform.tracking.registry import RegisteredVersion, fetch_version

from sdavs_model import LoadedModel, load_artifact
from sdavs_model.architectures.base import Heard
from sdavs_model.artifact import read_golden
from sdavs_model.cpu_memory import keep_freed_memory
from sdavs_model.data.core.clip import SAMPLE_RATE, Clip
from sdavs_model.golden import golden_difference
from sdavs_model.masks import masks_at_size
from sdavs_serve.model_calls import GoldenReport, Regions, Sound, regions_of
from sdavs_serve.rollout.state import Release, Target

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """One clip as the model's input."""

    frames: torch.Tensor
    """[T, 3, S, S]."""
    log_mel: torch.Tensor
    """[T, 1, 96, 64]."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The model's prediction for one clip, on the CPU."""

    logits: torch.Tensor
    """[T, K, S, S]."""
    sounds: list[list[Sound]] | None
    """See `Masks.sounds`."""


class ServedModel:
    """One version, loaded, verified and warm."""

    def __init__(self, *, loaded: LoadedModel, release: Release, folder: Path, device: torch.device) -> None:
        """
        Args:
            loaded: the model, with its own preprocessing.
            release: which version it is.
            folder: its artifact on this machine.
            device: where it runs.
        """
        self.loaded = loaded
        self.release = release
        self.folder = folder
        self.device = device

    @classmethod
    def load(cls, release: Release, *, config: ServeConfig) -> "ServedModel":
        """Fetch a version, check it, load it and run it once; on CUDA if the config gives it `num_gpus`.

        Raises:
            ValueError: it is not what was registered, or its logits are not finite.
        """
        found = RegisteredVersion(**release.model_dump(include=set(Target.model_fields)), tags={})
        folder = fetch_version(found, uri=config.tracking_uri)
        device = torch.device("cuda" if config.num_gpus else "cpu")
        if not config.num_gpus:
            keep_freed_memory()
        loaded = load_artifact(folder, device=device, sha256=release.sha256)
        model = cls(loaded=loaded, release=release, folder=folder, device=device)
        model._warm_up()
        return model

    def prepare(self, clip: Clip) -> Inputs:
        """The clip through the model's own preprocessing, the same as in training and evaluation."""
        preprocessor = self.loaded.preprocessor
        return Inputs(
            frames=preprocessor.frames(list(clip.frames)),
            log_mel=preprocessor.log_mel(clip.waveform, clip.num_frames),
        )

    def run(self, batch: list[Inputs]) -> list[Prediction]:
        """The prediction for each clip; clips of equal length share a forward pass."""
        by_length: dict[int, list[int]] = {}
        for position, inputs in enumerate(batch):
            by_length.setdefault(len(inputs.frames), []).append(position)
        predictions: dict[int, Prediction] = {}
        for positions in by_length.values():
            frames = torch.stack([batch[position].frames for position in positions])
            log_mel = torch.stack([batch[position].log_mel for position in positions])
            with torch.inference_mode():
                out = self.loaded.model.segment(frames.to(self.device), log_mel.to(self.device))
            logits = out.logits.float().cpu()
            sounds = (
                _sounds(out.heard, self.loaded.config.heard_classes) if out.heard else [None] * len(logits)
            )
            for position, each, heard in zip(positions, logits, sounds, strict=True):
                predictions[position] = Prediction(logits=each, sounds=heard)
        return [predictions[position] for position in range(len(batch))]

    def probe_device(self) -> None:
        """A small computation on the device. Raises what torch raises if that fails."""
        assert float(torch.ones(2, device=self.device).sum()) == 2.0

    def check_golden(self) -> GoldenReport:
        """Run the golden clips that came with the version.

        Raises:
            ValueError: it has none.
        """
        golden = read_golden(self.folder)
        return GoldenReport(
            difference=golden_difference(self.loaded.model, self.loaded.preprocessor, golden),
            clips=golden.clips(),
        )

    def _warm_up(self) -> None:
        """One silent grey clip through the whole path, so that the first request does not wait for lazy set-up."""
        started = time.monotonic()
        num_frames = self.loaded.config.num_frames
        silence = np.zeros(num_frames * SAMPLE_RATE, np.float32)
        clip = Clip(name="warm-up", frames=np.full((num_frames, 48, 64, 3), 127, np.uint8), waveform=silence)
        if not torch.isfinite(self.run([self.prepare(clip)])[0].logits).all():
            raise ValueError("its logits of a silent grey clip are not finite")
        logger.info("version %s warmed up in %.1f s", self.release.version, time.monotonic() - started)


def _sounds(heard: Heard, names: Sequence[str]) -> list[list[list[Sound]]]:
    """For each clip and second the classes heard, nearest first."""
    return [
        [
            [
                Sound(name=names[index], seen=seen, distance=distance)
                for index, seen, distance in zip(*second, strict=True)
            ]
            for second in zip(*clip, strict=True)
        ]
        for clip in zip(
            *(x.cpu().tolist() for x in (heard.classes, heard.seen, heard.distances)), strict=True
        )
    ]


def frame_regions(logits: torch.Tensor, *, size: tuple[int, int], threshold: float) -> list[Regions]:
    """The masks of `masks_at_size` as regions, one frame after the other: only one is in memory at full size."""
    frames = []
    for logits_of_frame in logits.split(1):
        predicted = masks_at_size(logits_of_frame, size=size, threshold=threshold)
        frames.append(regions_of(predicted.classes[0].numpy(), predicted.confidence[0].numpy()))
    return frames
