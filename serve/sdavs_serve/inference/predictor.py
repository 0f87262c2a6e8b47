"""A model deployment: holds the version that the rollout's document assigns to its slot, fed in batches of frames.

There are two such deployments, slot a and slot b, so that a version which crashes, leaks or hangs does so in
processes of its own, and is scaled on its own queue.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray import serve
from sdavs_platform.config.serve import ServeConfig

from sdavs_model.data.core.clip import Clip
from sdavs_serve.messages import GoldenReport, Masks
from sdavs_serve.rollout import store
from sdavs_serve.rollout.state import Release, RolloutState, SlotName

if TYPE_CHECKING:
    import torch

    from sdavs_serve.inference.loaded_model import Inputs, ServedModel

logger = logging.getLogger("ray.serve")


def _num_frames(batch: list[tuple[ServedModel, Inputs]]) -> int:
    return sum(len(inputs.frames) for _, inputs in batch)


class Predictor:
    """Answers clips with masks, of exactly the version asked for or not at all.

    A thread follows the document; a change of the slot's version is loaded beside nothing: a slot that is told to
    change has no traffic, and the version before it goes first, so that no more than two are ever in memory.
    """

    def __init__(self, config: ServeConfig, slot: SlotName) -> None:
        """Loads what the slot has to hold before Serve routes anything here.

        Args:
            config: the endpoint's config.
            slot: which of the two this is a copy of.
        """
        self._config = config
        self._slot: SlotName = slot
        actor = ray.get_runtime_context().get_actor_name()
        assert actor, "Serve names its replicas"
        self._actor = actor
        self._model: ServedModel | None = None
        self._wants: str | None = None
        self._failed: str | None = None
        self._beat = 0
        self._loading: threading.Thread | None = None
        infer: Any = self._infer  # `serve.batch` adds the setters, and its type forgets them
        infer.set_max_batch_size(config.max_batch_frames)
        infer.set_batch_wait_timeout_s(config.batch_wait_ms / 1000)
        self._watcher = store.Watcher(self._follow)
        # Not a word before it has loaded: until then the copies that are there already speak for the slot.
        self._obey(self._watcher.state)
        if self._loading:
            self._loading.join()
        self._watcher.start()

    def check_health(self) -> None:
        """Called by Serve, which replaces this copy if it raises."""
        if not self._watcher.alive:
            raise RuntimeError("the thread that follows the rollout has ended")
        active = self._watcher.state.active == self._slot
        if active and self._failed and self._model is None:
            raise RuntimeError(f"the served version cannot be loaded: {self._failed}")

    async def segment(self, version: int, clip: Clip, threshold: float) -> Masks | None:
        """Masks of one clip, in the size of its frames; None if another version is loaded, or none."""
        model = self._model
        if model is None or model.release.version != version:
            return None
        inputs = await asyncio.to_thread(model.prepare, clip)
        height, width = clip.frames.shape[1:3]
        return await self._masks(model, inputs, size=(height, width), threshold=threshold)

    async def golden(self, version: int) -> GoldenReport | None:
        """How the version answers its own golden clips; None if another one is loaded.

        Raises:
            ValueError: it came without.
        """
        model = self._model
        if model is None or model.release.version != version:
            return None
        return await asyncio.to_thread(model.check_golden)

    async def probe(self, version: int, pictures: np.ndarray, log_mel: np.ndarray) -> Masks | None:
        """As `segment`, for one golden clip of whatever version: [T, S, S, 3] uint8 and [T, 1, 96, 64]."""
        model = self._model
        if model is None or model.release.version != version:
            return None
        inputs = await asyncio.to_thread(model.prepare_golden, pictures, log_mel)
        height, width = pictures.shape[1:3]
        return await self._masks(model, inputs, size=(height, width), threshold=0.5)

    async def _masks(
        self, model: ServedModel, inputs: Inputs, *, size: tuple[int, int], threshold: float
    ) -> Masks:
        from sdavs_serve.inference.loaded_model import masks_with_scores

        logits = await self._infer((model, inputs))
        masks, scores = await asyncio.to_thread(masks_with_scores, logits, size=size, threshold=threshold)
        return Masks(version=model.release.version, masks=masks, scores=scores)

    @serve.batch(batch_size_fn=_num_frames)
    async def _infer(self, batch: list[tuple[ServedModel, Inputs]]) -> list[torch.Tensor]:
        """Logits [T, K, S, S] of each clip in the batch."""
        logits: dict[int, torch.Tensor] = {}
        # More than one model only in the moment of a change; each clip gets the one that prepared it.
        for model in {id(model): model for model, _ in batch}.values():
            positions = [position for position, (other, _) in enumerate(batch) if other is model]
            out = await asyncio.to_thread(model.run, [batch[position][1] for position in positions])
            logits |= zip(positions, out, strict=True)
        return [logits[position] for position in range(len(batch))]

    def _obey(self, state: RolloutState) -> None:
        """Begin to load what the document wants."""
        release = state.slots[self._slot]
        wanted = release.identity if release else None
        busy = self._loading is not None and self._loading.is_alive()
        if wanted != self._wants and not busy:
            self._wants, self._failed, self._model = wanted, None, None
            if release:
                self._loading = threading.Thread(target=self._load, args=(release,), daemon=True)
                self._loading.start()

    def _follow(self, state: RolloutState) -> None:
        self._obey(state)
        self._beat += 1
        model = self._model
        report = store.CopyReport(
            beat=self._beat,
            wants=self._wants,
            holds=model.release.identity if model else None,
            failed=self._failed,
        )
        store.write_report(self._slot, self._actor, report)

    def _load(self, release: Release) -> None:
        # Imported in the replica only: torch, timm and MLflow take seconds, and wiring the app needs none of them.
        from sdavs_serve.inference.loaded_model import ServedModel

        try:
            self._model = ServedModel.load(release, config=self._config)
        except Exception as error:
            # Whatever is wrong with a version, this copy is well and says so: the rollout decides.
            self._failed = f"{type(error).__name__}: {error}"
            logger.error("version %s refused: %s", release.version, self._failed)
            return
        logger.info("slot %s holds %s version %s", self._slot, release.name, release.version)
