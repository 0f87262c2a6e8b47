"""Shadow traffic: some windows also go to the other version; its masks are compared and never returned.

What requests observe of both versions is collected here and sent to the rollout controller.
"""

import asyncio
import logging
import random
import time
from typing import Literal

from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from sdavs_model.data.core.clip import Clip
from sdavs_serve.inference.router import Route
from sdavs_serve.model_calls import CALL_LOST, Masks, within
from sdavs_serve.rollout.state import SlotName
from sdavs_serve.rollout.trial_gates import Observation, disagreement

logger = logging.getLogger("ray.serve")

SEND_S = 0.5
"""Observations are sent together, this often."""

MAX_MIRRORED = 2
"""Windows in flight to the other version at once; further ones are not compared, so that no queue grows in memory."""


class Observer:
    """Collects the outcomes of calls to the versions, and sends them to the controller."""

    def __init__(
        self,
        *,
        slots: dict[SlotName, DeploymentHandle],
        controller: DeploymentHandle,
        call_timeout_s: float,
    ) -> None:
        """
        Args:
            slots: handles of the two `Predictor` deployments.
            controller: handle of the `RolloutController`.
            call_timeout_s: longest time of a call in the shadow.
        """
        self._call_timeout_s = call_timeout_s
        self._slots = slots
        self._controller = controller
        self._pending: list[Observation] = []
        self._tasks: set[asyncio.Task] = set()
        self._num_mirrored = 0
        self._sender: asyncio.Task | None = None

    def record(self, route: Route, *, ok: bool, seconds: float) -> None:
        """Note how the version that a request was routed to handled one window."""
        if route.mirror and route.who != "pinned":
            self._add(Observation(stage=route.stage, who=route.who, ok=ok, seconds=seconds))

    def maybe_compare(self, route: Route, clip: Clip, threshold: float, predicted: Masks) -> None:
        """Send the same window to the other version for a fraction of the calls; the request does not wait for it."""
        if route.mirror and self._num_mirrored < MAX_MIRRORED and random.random() < route.mirror_fraction:
            self._spawn(self._compare(route, clip, threshold, predicted))

    async def _compare(self, route: Route, clip: Clip, threshold: float, predicted: Masks) -> None:
        assert route.mirror
        who: Literal["active", "candidate"] = "candidate" if route.who == "active" else "active"
        self._num_mirrored += 1
        started = time.perf_counter()
        try:
            call = self._slots[route.mirror_slot].segment.remote(route.mirror.version, clip, threshold)
            other = await within(self._call_timeout_s, call)
        except (*CALL_LOST, BackPressureError):
            return
        except TimeoutError:
            logger.warning("version %s does not respond in shadow mode", route.mirror.version)
            seconds = self._call_timeout_s
            self._add(Observation(stage=route.stage, who=who, ok=False, seconds=seconds))
            return
        except RayTaskError as error:
            logger.warning("version %s failed in shadow mode: %s", route.mirror.version, error.cause)
            self._add(Observation(stage=route.stage, who=who, ok=False, seconds=0.0))
            return
        finally:
            self._num_mirrored -= 1
        if other is not None:
            seconds = time.perf_counter() - started
            # In a thread: at 4K it draws and compares a hundred megabytes, while others wait for the event loop.
            differ = await asyncio.to_thread(lambda: disagreement(predicted.masks, other.masks))
            self._add(Observation(stage=route.stage, who=who, ok=True, seconds=seconds, disagreement=differ))

    def _add(self, observation: Observation) -> None:
        self._pending.append(observation)
        if self._sender is None or self._sender.done():
            self._sender = self._spawn(self._send())

    async def _send(self) -> None:
        while self._pending:
            await asyncio.sleep(SEND_S)
            sent, self._pending = self._pending, []
            await self._deliver(self._controller.observe.remote(sent))

    async def _deliver(self, response) -> None:
        try:
            await response
        except Exception as error:
            # A restarted controller begins the current step again and needs none of these observations.
            logger.info("observations did not reach the rollout controller: %s", error)

    def _spawn(self, work) -> asyncio.Task:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
