"""A registered model in memory: from the registry through its checks to masks. No Serve, no HTTP."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import numpy as np
import torch
from sdavs_platform.config import ServeConfig
from sdavs_platform.tracking.registry import fetch, resolve

from sdavs_model import LoadedModel, load_artifact
from sdavs_model.data.clip import SAMPLE_RATE, Clip
from sdavs_serve.messages import Target
from sdavs_serve.schema import ModelInfo

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """One clip as the model takes it."""

    frames: torch.Tensor
    """[T, 3, S, S]."""
    log_mel: torch.Tensor
    """[T, 1, 96, 64]."""


class ServedModel:
    """One version, loaded, verified and warm."""

    def __init__(self, *, loaded: LoadedModel, info: ModelInfo, device: torch.device) -> None:
        """
        Args:
            loaded: the model, with its own preprocessing.
            info: where it comes from.
            device: where it runs.
        """
        self.loaded = loaded
        self.info = info
        self.device = device

    @classmethod
    def load(cls, target: Target, *, config: ServeConfig) -> ServedModel:
        """Fetch a version, check it, load it and run it once; on CUDA if the config gives it `num_gpus`.

        Raises:
            ValueError: not registered, not what was registered, or not a model that this endpoint can serve.
        """
        uri = f"models:/{target.name}/{target.version}"
        found = resolve(uri, uri=config.tracking_uri)
        folder = fetch(uri, uri=config.tracking_uri)
        device = torch.device("cuda" if config.num_gpus else "cpu")
        loaded = load_artifact(folder, device=device, sha256=found.sha256)
        if loaded.config.num_classes != 1:
            raise ValueError(f"{uri}: {loaded.config.num_classes} classes; this endpoint serves binary masks")
        if loaded.config.num_frames > config.max_batch_frames:
            raise ValueError(
                f"max_batch_frames: {config.max_batch_frames} is below the {loaded.config.num_frames} frames "
                f"that {uri} sees at once"
            )
        info = ModelInfo(
            name=target.name,
            version=str(target.version),
            alias=target.alias,
            run_id=found.run_id,
            data_digest=str(loaded.lineage.get("data_digest", "")),
            sha256=loaded.sha256,
        )
        model = cls(loaded=loaded, info=info, device=device)
        model._warm_up()
        return model

    def prepare(self, clip: Clip) -> Inputs:
        """The clip through the model's own preprocessing, the same as in training and evaluation."""
        preprocessor = self.loaded.preprocessor
        return Inputs(
            frames=preprocessor.frames(list(clip.frames)),
            log_mel=preprocessor.log_mel(clip.waveform, clip.num_frames),
        )

    def run(self, batch: list[Inputs]) -> list[torch.Tensor]:
        """Logits [T, 1, S, S] of each clip, on the CPU; clips of equal length share a forward pass."""
        by_length: dict[int, list[int]] = {}
        for position, inputs in enumerate(batch):
            by_length.setdefault(len(inputs.frames), []).append(position)
        logits: dict[int, torch.Tensor] = {}
        for positions in by_length.values():
            frames = torch.stack([batch[position].frames for position in positions])
            log_mel = torch.stack([batch[position].log_mel for position in positions])
            with torch.inference_mode():
                out = self.loaded.model(frames.to(self.device), log_mel.to(self.device)).float().cpu()
            logits |= zip(positions, out, strict=True)
        return [logits[position] for position in range(len(batch))]

    def _warm_up(self) -> None:
        """One silent grey clip through the whole path: the first real request shall not pay for lazy set-up."""
        started = time.monotonic()
        num_frames = self.loaded.config.num_frames
        silence = np.zeros(num_frames * SAMPLE_RATE, np.float32)
        clip = Clip(name="warm-up", frames=np.full((num_frames, 48, 64, 3), 127, np.uint8), waveform=silence)
        if not torch.isfinite(self.run([self.prepare(clip)])[0]).all():
            raise ValueError("answers a silent grey clip with numbers that are not finite")
        logger.info("version %s warmed up in %.1f s", self.info.version, time.monotonic() - started)


def masks_at_frame_size(
    logits: torch.Tensor, *, size: tuple[int, int], threshold: float
) -> tuple[np.ndarray, list[float]]:
    """The one way from the model's square logits to masks over the original picture.

    Logits are resized bilinearly (the inverse of the squash in `Preprocessor.frames`, which crops nothing),
    then sigmoid, then `threshold`. Our choice: resizing before the threshold gives smooth outlines where
    resizing the mask would give stairs.

    Args:
        logits: [T, 1, S, S].
        size: height and width of the frames.
        threshold: probability above which a pixel belongs to the mask.

    Returns:
        Masks [T, H, W] uint8 of 0 and 1, and for each its mean probability inside (0 where it is empty).
    """
    with torch.inference_mode():
        resized = torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        probabilities = resized.squeeze(1).sigmoid()  # [T, H, W]
        inside = probabilities > threshold
        areas = inside.sum(dim=(1, 2))
        scores = (probabilities * inside).sum(dim=(1, 2)) / areas.clamp(min=1)
    return inside.to(torch.uint8).numpy(), scores.tolist()
