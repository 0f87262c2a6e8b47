"""The model deployment: one model per replica, swapped in place, fed in batches that count frames."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from ray import serve
from sdavs_platform.config import ServeConfig

from sdavs_model.data.clip import Clip
from sdavs_serve.messages import Masks, Target
from sdavs_serve.schema import ModelStatus

if TYPE_CHECKING:
    import torch

    from sdavs_serve.inference import Inputs, ServedModel

logger = logging.getLogger("ray.serve")


def _num_frames(batch: list[tuple[ServedModel, Inputs]]) -> int:
    return sum(len(inputs.frames) for _, inputs in batch)


class Predictor:
    """Answers clips with masks.

    `reconfigure` loads a new version beside the old one and drops the old only after the new one has passed
    its checks and a warm-up. If it does not pass, the old one stays and `status` says why; a replica that has
    no old one fails to start.
    """

    def __init__(self, config: ServeConfig) -> None:
        """
        Args:
            config: the endpoint's config.
        """
        self._config = config
        self._model: ServedModel | None = None
        self._refused: str | None = None
        infer: Any = self._infer  # `serve.batch` adds the setters, and its type forgets them
        infer.set_max_batch_size(config.max_batch_frames)
        infer.set_batch_wait_timeout_s(config.batch_wait_ms / 1000)

    async def reconfigure(self, user_config: dict) -> None:
        """Serve the version that `user_config` (a `Target`) names.

        Raises:
            ValueError: it cannot be served and there is no earlier version to keep.
        """
        target = Target.model_validate(user_config)
        try:
            model = await asyncio.to_thread(self._load, target)
        except Exception as error:
            # Whatever is wrong with the new version, the old one is still right: this is the swap's boundary.
            if self._model is None:
                raise
            self._refused = f"version {target.version}: {error}"
            logger.error("version %s kept; refused %s", self._model.info.version, self._refused)
            return
        self._model, self._refused = model, None
        logger.info("serving %s version %s", target.name, target.version)

    async def status(self) -> ModelStatus:
        """Which model serves."""
        model = self._current()
        config = model.loaded.config
        return ModelStatus(
            model=model.info,
            backbone=config.backbone,
            image_size=config.image_size,
            num_frames=config.num_frames,
            classes=model.loaded.classes,
            metrics=model.loaded.metrics,
            device=str(model.device),
            refused=self._refused,
        )

    async def segment(self, clip: Clip, threshold: float) -> Masks:
        """Masks of one clip, in the size of its frames."""
        from sdavs_serve.inference import masks_at_frame_size

        model = self._current()
        inputs = await asyncio.to_thread(model.prepare, clip)
        logits = await self._infer((model, inputs))
        height, width = clip.frames.shape[1:3]
        masks, scores = await asyncio.to_thread(
            masks_at_frame_size, logits, size=(height, width), threshold=threshold
        )
        return Masks(version=model.info.version, masks=masks, scores=scores)

    @serve.batch(batch_size_fn=_num_frames)
    async def _infer(self, batch: list[tuple[ServedModel, Inputs]]) -> list[torch.Tensor]:
        """Logits [T, 1, S, S] of each clip in the batch."""
        logits: dict[int, torch.Tensor] = {}
        # More than one model only in the moment of a swap; each clip gets the one that prepared it.
        for model in {id(model): model for model, _ in batch}.values():
            positions = [position for position, (other, _) in enumerate(batch) if other is model]
            out = await asyncio.to_thread(model.run, [batch[position][1] for position in positions])
            logits |= zip(positions, out, strict=True)
        return [logits[position] for position in range(len(batch))]

    def _load(self, target: Target) -> ServedModel:
        # Imported in the replica only: torch, timm and MLflow take seconds, and wiring the app needs none of them.
        from sdavs_serve.inference import ServedModel

        return ServedModel.load(target, config=self._config)

    def _current(self) -> ServedModel:
        assert self._model is not None, "Serve calls reconfigure before it routes requests here"
        return self._model
