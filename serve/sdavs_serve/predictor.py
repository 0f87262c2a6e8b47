"""The model deployment: one verified model per replica, swapped in place, fed in batches that count frames."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from ray import serve
from sdavs_platform.config import ServeConfig
from sdavs_platform.tracking.registry import fetch, resolve

from sdavs_model import load_artifact
from sdavs_model.artifact import LoadedModel
from sdavs_model.data.clip import SAMPLE_RATE, Clip
from sdavs_serve.schema import ModelInfo, ModelStatus

logger = logging.getLogger("ray.serve")


class Target(BaseModel):
    """The version to serve, as it stands in the deployment's `user_config`.

    A number and not an alias: the same target means the same weights on every replica, and a new one is a
    change that Serve sees and hands to `reconfigure`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: int
    alias: str | None = None


@dataclass(frozen=True, kw_only=True)
class Masks:
    """What the model says about one clip."""

    version: str
    """Version of the model that said it."""
    masks: np.ndarray
    """[T, H, W] uint8, 0 or 1, in the size of the clip's frames."""
    scores: list[float]
    """Mean probability inside each mask; 0 where it is empty."""


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """One clip, ready for the model."""

    serving: _Serving
    frames: torch.Tensor
    """[T, 3, S, S]."""
    log_mel: torch.Tensor
    """[T, 1, 96, 64]."""


@dataclass(frozen=True, kw_only=True)
class _Serving:
    """A loaded model and its papers."""

    loaded: LoadedModel
    info: ModelInfo


@serve.deployment(name="model")
class Predictor:
    """Answers clips with masks.

    `reconfigure` loads a new version beside the old one and drops the old only after the new one has passed
    its checks and a warm-up. If it does not pass, the old one stays and `status` says why; a replica that has
    no old one fails to start.
    """

    def __init__(self, config: ServeConfig) -> None:
        """
        Args:
            config: the endpoint's config; `num_gpus` decides between CUDA and CPU.
        """
        self._config = config
        self._device = torch.device("cuda" if config.num_gpus else "cpu")
        self._serving: _Serving | None = None
        self._refused: str | None = None
        self._infer.set_max_batch_size(config.max_batch_frames)
        self._infer.set_batch_wait_timeout_s(config.batch_wait_ms / 1000)

    async def reconfigure(self, user_config: dict) -> None:
        """Serve the version that `user_config` (a `Target`) names.

        Raises:
            ValueError: it cannot be served and there is no earlier version to keep.
        """
        target = Target.model_validate(user_config)
        try:
            serving = await asyncio.to_thread(load, target, config=self._config, device=self._device)
        except Exception as error:
            # Whatever is wrong with the new version, the old one is still right: the boundary of the swap.
            if self._serving is None:
                raise
            self._refused = f"version {target.version}: {error}"
            logger.error("version %s kept; refused %s", self._serving.info.version, self._refused)
            return
        self._serving, self._refused = serving, None
        logger.info("serving %s version %s", target.name, target.version)

    async def status(self) -> ModelStatus:
        """Which model serves."""
        serving = self._current()
        config = serving.loaded.config
        return ModelStatus(
            model=serving.info,
            backbone=config.backbone,
            image_size=config.image_size,
            num_frames=config.num_frames,
            classes=serving.loaded.classes,
            metrics=serving.loaded.metrics,
            device=str(self._device),
            refused=self._refused,
        )

    async def segment(self, clip: Clip, threshold: float) -> Masks:
        """Masks of one clip, in the size of its frames."""
        serving = self._current()
        inputs = await asyncio.to_thread(_prepare, serving, clip)
        logits = await self._infer(inputs)
        masks, scores = await asyncio.to_thread(
            masks_at_frame_size, logits, size=clip.frames.shape[1:3], threshold=threshold
        )
        return Masks(version=serving.info.version, masks=masks, scores=scores)

    @serve.batch(batch_size_fn=lambda batch: sum(len(inputs.frames) for inputs in batch))
    async def _infer(self, batch: list[_Inputs]) -> list[torch.Tensor]:
        """Logits [T, 1, S, S] of each clip in the batch."""
        return await asyncio.to_thread(self._forward, batch)

    def _forward(self, batch: list[_Inputs]) -> list[torch.Tensor]:
        # One pass takes clips of one length for one model. Others are rare: short uploads, and the moment of a swap.
        groups: dict[tuple[int, int], list[int]] = {}
        for position, inputs in enumerate(batch):
            groups.setdefault((id(inputs.serving), len(inputs.frames)), []).append(position)
        logits: dict[int, torch.Tensor] = {}
        for positions in groups.values():
            loaded = batch[positions[0]].serving.loaded
            frames = torch.stack([batch[position].frames for position in positions])
            log_mel = torch.stack([batch[position].log_mel for position in positions])
            logits |= zip(positions, run_model(loaded, frames, log_mel, self._device), strict=True)
        return [logits[position] for position in range(len(batch))]

    def _current(self) -> _Serving:
        assert self._serving is not None, "Serve calls reconfigure before it routes requests here"
        return self._serving


def load(target: Target, *, config: ServeConfig, device: torch.device) -> _Serving:
    """Fetch a version, check it, load it and run it once.

    Raises:
        ValueError: not registered, not what was registered, or not a model that this endpoint can serve.
    """
    uri = f"models:/{target.name}/{target.version}"
    found = resolve(uri, uri=config.tracking_uri)
    folder = fetch(uri, uri=config.tracking_uri)
    loaded = load_artifact(folder, device=device, sha256=found.sha256)
    if loaded.config.num_classes != 1:
        raise ValueError(f"{uri}: {loaded.config.num_classes} classes; this endpoint serves binary masks")
    if loaded.config.num_frames > config.max_batch_frames:
        raise ValueError(
            f"max_batch_frames: {config.max_batch_frames} is below the {loaded.config.num_frames} frames "
            f"that {uri} sees at once"
        )
    _warm_up(loaded, uri, device)
    info = ModelInfo(
        name=target.name,
        version=str(target.version),
        alias=target.alias,
        run_id=found.run_id,
        data_digest=str(loaded.lineage.get("data_digest", "")),
        sha256=loaded.sha256,
    )
    return _Serving(loaded=loaded, info=info)


def run_model(
    loaded: LoadedModel, frames: torch.Tensor, log_mel: torch.Tensor, device: torch.device
) -> torch.Tensor:
    """frames [B, T, 3, S, S], log_mel [B, T, 1, 96, 64] -> logits [B, T, 1, S, S] on the CPU, float32."""
    with torch.inference_mode():
        return loaded.model(frames.to(device), log_mel.to(device)).float().cpu()


def masks_at_frame_size(
    logits: torch.Tensor, *, size: tuple[int, int], threshold: float
) -> tuple[np.ndarray, list[float]]:
    """The one way from the model's square logits to masks over the original picture.

    Logits are resized bilinearly (the inverse of the squash in `Preprocessor.frames`, which is not cropped),
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


def _prepare(serving: _Serving, clip: Clip) -> _Inputs:
    preprocessor = serving.loaded.preprocessor
    return _Inputs(
        serving=serving,
        frames=preprocessor.frames(list(clip.frames)),
        log_mel=preprocessor.log_mel(clip.waveform, clip.num_frames),
    )


def _warm_up(loaded: LoadedModel, uri: str, device: torch.device) -> None:
    """One silent grey clip through the whole path: the first real request shall not pay for lazy set-up."""
    started = time.monotonic()
    num_frames = loaded.config.num_frames
    pictures = [np.full((48, 64, 3), 127, np.uint8)] * num_frames
    frames = loaded.preprocessor.frames(pictures)[None]
    log_mel = loaded.preprocessor.log_mel(np.zeros(num_frames * SAMPLE_RATE, np.float32), num_frames)[None]
    logits = run_model(loaded, frames, log_mel, device)
    if not torch.isfinite(logits).all():
        raise ValueError(f"{uri}: answers a silent grey clip with numbers that are not finite")
    logger.info("%s warmed up in %.1f s", uri, time.monotonic() - started)
