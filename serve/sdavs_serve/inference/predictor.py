"""The model deployment: holds the version that the rollout's document assigns to its slot, and predicts in batches.

There are two such deployments, slot a and slot b. A version that crashes, leaks or hangs does so in processes of its
own, and each slot is scaled by its own queue.
"""

import asyncio
import contextlib
import logging
import os
import threading
from typing import TYPE_CHECKING

import ray
from sdavs_platform.config.serve import ServeConfig

from sdavs_model.data.core.clip import Clip
from sdavs_serve import tracing
from sdavs_serve.inference.batching import Batcher
from sdavs_serve.inference.device import DeviceHealth
from sdavs_serve.model_calls import GoldenReport, Masks, ReplicaBroken
from sdavs_serve.rollout import store
from sdavs_serve.rollout.retries import with_retries
from sdavs_serve.rollout.state import Release, RolloutState, SlotName

if TYPE_CHECKING:
    from sdavs_serve.inference.served_model import Inputs, Prediction, ServedModel

logger = logging.getLogger("ray.serve")


MAX_AT_ONCE = 4
"""Batches on CPUs; our choice: each holds the activations of its clips."""


def batches_at_once(config: ServeConfig, *, num_cores: int) -> int:
    """How many batches a replica predicts at the same time: one on a GPU, else as many as there are cores for.

    Ray gives a replica one thread for each whole core that it reserves, and at least one. Two forward passes of a
    small model with one thread each take less time than one after the other with two threads (docs/performance.md).
    """
    if config.num_gpus:
        return 1
    return min(MAX_AT_ONCE, max(1, num_cores // max(1, int(config.num_cpus))))


def _num_cores() -> int:
    """Cores of this node that Ray offers and this process may use."""
    here = ray.get_runtime_context().get_node_id()
    offered = next(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["NodeID"] == here)
    return min(len(os.sched_getaffinity(0)), int(offered))


def _num_frames(item: tuple["ServedModel", "Inputs"]) -> int:
    return len(item[1].frames)


class Predictor:
    """Predicts masks with exactly the version that the caller names, or not at all.

    A thread follows the document. A slot whose version changes has no traffic, so the old version is released before
    the new one is loaded, and no more than two are ever in memory.
    """

    def __init__(self, config: ServeConfig, slot: SlotName) -> None:
        """Load the slot's version before Serve routes requests here.

        Args:
            config: the endpoint's config.
            slot: which of the two slots this replica belongs to.
        """
        tracing.configure(config, part=f"model-{slot}")
        self._config = config
        self._slot: SlotName = slot
        actor = ray.get_runtime_context().get_actor_name()
        assert actor, "Serve names the actors of its replicas"
        self._actor = actor
        self._model: ServedModel | None = None
        self._wants: str | None = None
        self._failed: str | None = None
        self._beat = 0
        self._loading: threading.Thread | None = None
        num_at_once = batches_at_once(config, num_cores=_num_cores())
        self._infer: Batcher[tuple[ServedModel, Inputs], Prediction] = Batcher(
            self._run_batch,
            size_of=_num_frames,
            max_size=config.max_batch_frames,
            # A core that waits for more clips computes nothing meanwhile.
            wait_s=config.batch_wait_ms / 1000 if num_at_once == 1 else 0.0,
            num_at_once=num_at_once,
        )
        self._device = DeviceHealth()
        self._watcher = store.Watcher(self._follow)
        # It reports only after it has loaded; until then the slot's other replicas report for the slot.
        self._apply(self._watcher.state)
        if self._loading:
            self._loading.join()
        self._watcher.start()

    async def check_health(self) -> None:
        """Called by Serve, which replaces this replica if it raises."""
        if not self._watcher.alive:
            raise RuntimeError("the thread that follows the rollout has stopped")
        state = self._watcher.state
        active = state.active == self._slot
        # A candidate that has traffic is loaded elsewhere, so this replica is at fault; before, the rollout decides.
        if (active or state.ready) and self._failed and self._model is None:
            raise RuntimeError(f"the version cannot be loaded: {self._failed}")
        if self._hangs(active=active):
            raise RuntimeError(f"a batch has been running for {self._infer.busy_s:.0f} s")
        # While a batch runs, it occupies the device; if it fails, `_run_batch` asks.
        if self._model and (self._device.broken or not self._infer.busy_s):
            await self._device.check(self._model.probe_device, is_busy=lambda: self._infer.busy_s > 0)

    def _hangs(self, *, active: bool) -> bool:
        """Whether the running batch takes so long that no request is still waiting for it."""
        trusted = active and self._watcher.state.phase != "bake"
        limit = self._config.timeout_s if trusted else self._config.rollout.call_timeout_s
        return self._infer.busy_s > limit

    async def segment(
        self, version: int, clip: Clip, threshold: float, trace: tracing.Carrier | None = None
    ) -> Masks | None:
        """Masks of one clip, in the size of its frames as displayed; None if another version is loaded, or none."""
        if trace is None:
            return await self._segment(version, clip, threshold)
        with tracing.span("predict", parent=trace, sdavs_version=version, sdavs_frames=clip.num_frames):
            return await self._segment(version, clip, threshold)

    async def _segment(self, version: int, clip: Clip, threshold: float) -> Masks | None:
        model = self._model
        if model is None or model.release.version != version:
            return None
        if self._device.broken:
            raise ReplicaBroken(self._device.broken)
        inputs = await asyncio.to_thread(model.prepare, clip)
        height, width = clip.size or clip.frames.shape[1:3]
        return await self._masks(model, inputs, size=(height, width), threshold=threshold)

    async def golden(self, version: int) -> GoldenReport | None:
        """How the version reproduces its own golden clips; None if another one is loaded.

        Raises:
            ValueError: it has none.
        """
        model = self._model
        if model is None or model.release.version != version:
            return None
        return await asyncio.to_thread(model.check_golden)

    async def _masks(
        self, model: "ServedModel", inputs: "Inputs", *, size: tuple[int, int], threshold: float
    ) -> Masks:
        from sdavs_serve.inference.served_model import frame_regions

        predicted = await self._infer((model, inputs))
        frames = await asyncio.to_thread(frame_regions, predicted.logits, size=size, threshold=threshold)
        return Masks(version=model.release.version, size=size, frames=frames, sounds=predicted.sounds)

    async def _run_batch(self, batch: list[tuple["ServedModel", "Inputs"]]) -> list["Prediction"]:
        """The prediction for each clip in the batch."""
        predictions: dict[int, Prediction] = {}
        # During a change there may be two models; each clip goes through the one that prepared it.
        for model in {id(model): model for model, _ in batch}.values():
            positions = [position for position, (other, _) in enumerate(batch) if other is model]
            try:
                out = await asyncio.to_thread(model.run, [batch[position][1] for position in positions])
            except Exception:
                # Either the clips or the device; only the first lets the next batch pass.
                with contextlib.suppress(RuntimeError):
                    await self._device.check(model.probe_device)
                raise
            predictions |= zip(positions, out, strict=True)
        return [predictions[position] for position in range(len(batch))]

    def _apply(self, state: RolloutState) -> None:
        """Start to load the version that the document assigns."""
        release = state.slots[self._slot]
        wanted = release.identity if release else None
        # A replica that hangs loads nothing more; Serve replaces it.
        hangs = self._hangs(active=state.active == self._slot)
        busy = hangs or (self._loading is not None and self._loading.is_alive())
        if wanted != self._wants and not busy:
            self._wants, self._failed, self._model = wanted, None, None
            if release:
                self._loading = threading.Thread(target=self._load, args=(release,), daemon=True)
                self._loading.start()

    def _follow(self, state: RolloutState) -> None:
        self._apply(state)
        self._beat += 1
        model = self._model
        report = store.ReplicaReport(
            beat=self._beat,
            wants=self._wants,
            holds=model.release.identity if model else None,
            failed=self._failed,
        )
        store.write_report(self._slot, self._actor, report)

    def _load(self, release: Release) -> None:
        # Imported in the replica only: torch, timm and MLflow take seconds, and building the app needs none of them.
        from sdavs_serve.inference.served_model import ServedModel

        try:
            self._model = with_retries(
                lambda: ServedModel.load(release, config=self._config), what=release.identity
            )
        except Exception as error:
            # Reported, and not raised: the rollout decides.
            self._failed = f"{type(error).__name__}: {error}"
            logger.error("version %s cannot be loaded: %s", release.version, self._failed)
            return
        logger.info("slot %s holds %s version %s", self._slot, release.name, release.version)
