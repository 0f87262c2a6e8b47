"""Sends one window to the version that its request was routed to: again if a replica dies, elsewhere if it cannot."""

import asyncio
import logging
import time

from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from sdavs_model.data.core.clip import Clip
from sdavs_serve import tracing
from sdavs_serve.errors import NoModel
from sdavs_serve.inference.router import Route, Router
from sdavs_serve.inference.shadow import Observer
from sdavs_serve.model_calls import CALL_LOST, Masks, ReplicaBroken
from sdavs_serve.rollout.state import SlotName

logger = logging.getLogger("ray.serve")

POLL_S = 0.5
"""How often a request that waits for a candidate checks whether the candidate still gets traffic."""

MAX_LOST = 5
"""How many replicas may die over one window before the client gets an error."""

PAUSE_S = 0.5
"""Before the second attempt; doubled before each further one."""


class VersionGone(Exception):
    """The version of this request is no longer available; the request restarts with another one."""


class Dispatcher:
    """Calls the model deployments."""

    def __init__(
        self,
        *,
        slots: dict[SlotName, DeploymentHandle],
        router: Router,
        observer: Observer,
        candidate_timeout_s: float,
    ) -> None:
        """
        Args:
            slots: handles of the two `Predictor` deployments.
            router: knows whether a candidate still gets traffic.
            observer: records how every call went.
            candidate_timeout_s: longest time of a call to a candidate.
        """
        self._slots = slots
        self._router = router
        self._observer = observer
        self._candidate_timeout_s = candidate_timeout_s

    async def predict(self, route: Route, clip: Clip, threshold: float) -> Masks:
        """The masks of one window.

        Raises:
            VersionGone: the version is no longer loaded, or a candidate failed.
            NoModel: the queue is full, or replicas of the served version die again and again.
        """
        failed = False
        for attempt in range(MAX_LOST):
            started = time.perf_counter()
            try:
                predicted = await self._call(route, clip, threshold)
            except CALL_LOST:
                if route.who == "candidate":
                    raise VersionGone(f"a replica of candidate {route.release.version} died") from None
                await asyncio.sleep(PAUSE_S * 2**attempt)  # until Serve has noticed, too
                continue
            except BackPressureError as error:
                if route.who == "candidate":
                    raise VersionGone(f"the queue of candidate {route.release.version} is full") from None
                raise NoModel("the model's queue is full; try again", limit="max_queued") from error
            except RayTaskError as error:
                broken = isinstance(error.cause, ReplicaBroken)
                if not broken:
                    self._observer.record(route, ok=False, seconds=time.perf_counter() - started)
                if route.who == "candidate":
                    raise VersionGone(f"candidate {route.release.version} failed: {error.cause}") from None
                if not broken and failed:
                    raise
                # Once more: its batch may have failed for another clip, or the device of this replica is broken. Then
                # the replica refuses at once, until Serve replaces it, and another one answers.
                logger.warning("version %d failed; retrying: %s", route.release.version, error.cause)
                failed = failed or not broken
                if broken:
                    await asyncio.sleep(PAUSE_S * 2**attempt)
                continue
            if predicted is None:
                raise VersionGone(f"version {route.release.version} is no longer loaded")
            self._observer.record(route, ok=True, seconds=time.perf_counter() - started)
            self._observer.maybe_compare(route, clip, threshold, predicted)
            return predicted
        raise NoModel("the model is restarting; try again")

    async def _call(self, route: Route, clip: Clip, threshold: float) -> Masks | None:
        segment = self._slots[route.slot].segment
        call = segment.remote(route.release.version, clip, threshold, tracing.carrier())
        if route.who != "candidate":
            try:
                return await call
            except asyncio.CancelledError:
                # Serve does so if the client has hung up, but not after `timeout_s`, nor for a job.
                call.cancel()
                raise
        # With its last replica gone Serve would hold the call until there is another one; the client need not wait.
        # Nor does it wait for a candidate that hangs.
        started = time.perf_counter()
        answer = asyncio.ensure_future(_awaited(call))
        try:
            while not answer.done():
                left = started + self._candidate_timeout_s - time.perf_counter()
                await asyncio.wait({answer}, timeout=min(POLL_S, max(0.0, left)))
                if answer.done():
                    break
                if not self._router.is_trusted(route):
                    raise VersionGone(f"candidate {route.release.version} gets no traffic any more")
                if left <= 0:
                    self._observer.record(route, ok=False, seconds=self._candidate_timeout_s)
                    raise VersionGone(
                        f"candidate {route.release.version} did not predict a window within "
                        f"{self._candidate_timeout_s:g} s"
                    )
            return answer.result()
        finally:
            if not answer.done():
                answer.cancel()
                call.cancel()


async def _awaited(call) -> Masks | None:
    return await call
