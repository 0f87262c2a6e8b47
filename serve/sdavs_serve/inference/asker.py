"""One window to the version that its request was given to: asked again if a copy dies, given up if it cannot answer."""

from __future__ import annotations

import asyncio
import time

from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from sdavs_model.data.core.clip import Clip
from sdavs_serve.errors import NoModel
from sdavs_serve.inference.mirror import Observer
from sdavs_serve.inference.router import Route, Router
from sdavs_serve.messages import Masks
from sdavs_serve.rollout.probe import CALL_LOST
from sdavs_serve.rollout.state import SlotName

LOOK_UP_S = 0.5
"""How often a request that waits for a candidate looks whether the candidate is still trusted."""

MAX_LOST = 5
"""How many copies may die over one window before the client hears of it."""

PAUSE_S = 0.5
"""Before the second attempt; doubled before each further one."""


class Gone(Exception):
    """The version of this request cannot answer any more; the request begins again with another one."""


class Asker:
    """Calls the model deployments."""

    def __init__(
        self, *, slots: dict[SlotName, DeploymentHandle], router: Router, observer: Observer
    ) -> None:
        """
        Args:
            slots: handles of the two `Predictor` deployments.
            router: tells whether a candidate is still trusted.
            observer: told how every call went.
        """
        self._slots = slots
        self._router = router
        self._observer = observer

    async def ask(self, route: Route, clip: Clip, threshold: float) -> Masks:
        """The masks of one window.

        Raises:
            Gone: the version is not loaded any more, or a candidate failed.
            NoModel: the queue is full, or copies of the version that serves die again and again.
        """
        for attempt in range(MAX_LOST):
            started = time.perf_counter()
            try:
                answered = await self._call(route, clip, threshold)
            except CALL_LOST:
                if route.who == "candidate":
                    raise Gone(f"a copy of candidate {route.release.version} died") from None
                await asyncio.sleep(PAUSE_S * 2**attempt)  # until Serve has noticed, too
                continue
            except BackPressureError as error:
                if route.who == "candidate":
                    raise Gone(f"the queue of candidate {route.release.version} is full") from None
                raise NoModel("the model's queue is full; try again", limit="max_queued") from error
            except RayTaskError as error:
                self._observer.saw(route, ok=False, seconds=time.perf_counter() - started)
                if route.who == "candidate":
                    raise Gone(f"candidate {route.release.version} failed: {error.cause}") from None
                raise
            if answered is None:
                raise Gone(f"version {route.release.version} is not loaded any more")
            self._observer.saw(route, ok=True, seconds=time.perf_counter() - started)
            self._observer.mirror(route, clip, threshold, answered)
            return answered
        raise NoModel("the model is restarting; try again")

    async def _call(self, route: Route, clip: Clip, threshold: float) -> Masks | None:
        call = self._slots[route.slot].segment.remote(route.release.version, clip, threshold)
        if route.who != "candidate":
            return await call
        # With its last copy gone Serve would keep the call until another copy is there; the client need not wait.
        answer = asyncio.ensure_future(_awaited(call))
        while not answer.done():
            await asyncio.wait({answer}, timeout=LOOK_UP_S)
            if not answer.done() and not self._router.is_trusted(route):
                answer.cancel()
                raise Gone(f"candidate {route.release.version} is not trusted any more")
        return answer.result()


async def _awaited(call) -> Masks | None:
    return await call
