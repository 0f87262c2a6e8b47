"""The reconciler: a Serve deployment that moves the endpoint to where the alias points, one careful step a tick.

It may be killed at any moment. All it knows is in the document (`store.py`) and all it does can be done twice.
It is not needed to answer requests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from ray.exceptions import RayTaskError
from ray.serve.handle import DeploymentHandle
from sdavs_platform.config.serve import ServeConfig

from sdavs_serve.messages import GoldenReport
from sdavs_serve.rollout import effects, store
from sdavs_serve.rollout.gates import Observation, Stage
from sdavs_serve.rollout.machine import Seen, advance
from sdavs_serve.rollout.probe import probe_both
from sdavs_serve.rollout.state import Failure, Release, RolloutState, SlotName, TagWrite, Target

logger = logging.getLogger("ray.serve")

TICK_S = 0.5
"""Longest pause between two looks at the world."""


class RolloutController:
    """Follows the alias. Its only messages are hints: a nudge to look now, and what requests observed."""

    def __init__(self, config: ServeConfig, slots: dict[SlotName, DeploymentHandle]) -> None:
        """
        Args:
            config: the endpoint's config.
            slots: handles of the two `Predictor` deployments.
        """
        self._config = config
        self._slots = slots
        self._reports = store.ReportReader()
        self._stage = Stage()
        self._target: tuple[Target, bool] | None = None
        self._fallback: Target | None = None
        self._golden: tuple[str, GoldenReport] | None = None
        self._outcome: Any = None
        self._trouble: str | None = None
        self._work: tuple[tuple[int, str], asyncio.Task] | None = None
        self._looking: asyncio.Task | None = None
        self._look_at = self._looked_at = self._tagged_at = 0.0
        self._tagging: asyncio.Task | None = None
        self._tagged: TagWrite | None = None
        self._quiet_since = time.monotonic()
        self._nudged = asyncio.Event()
        self._loop = asyncio.get_running_loop().create_task(self._run())

    def check_health(self) -> None:
        """Called by Serve, which replaces the controller if it raises."""
        if self._loop.done():
            raise RuntimeError(f"the reconciler has ended: {self._loop.exception()}")

    async def nudge(self) -> None:
        """Look the alias up now instead of at the next poll."""
        self._look_at = 0.0
        self._nudged.set()

    async def observe(self, observations: Sequence[Observation]) -> None:
        """Take what requests have seen of the two versions."""
        self._stage.add(observations)
        self._quiet_since = time.monotonic()

    async def _run(self) -> None:
        while True:
            self._nudged.clear()
            try:
                await self._tick()
            except Exception:
                # MLflow or Ray's head may be away for a while. The next tick begins from what is true then.
                logger.exception("the rollout did not get on; trying again")
            try:
                await asyncio.wait_for(self._nudged.wait(), TICK_S)
            except TimeoutError:
                continue

    async def _tick(self) -> None:
        state = await asyncio.to_thread(store.read_state)
        source = effects.source_digest(self._config)
        if state.source != source:
            # Another registry's rollout: nothing of it holds here. The number goes on, for the writers' fence.
            alias = self._config.model_uri.partition("@")[2] or None
            state = RolloutState(revision=state.revision, source=source, alias=alias, stage=state.stage)
        if self._stage.number != state.stage:
            self._stage = Stage(number=state.stage)
        self._start_talk(state)
        self._start_work(state)
        target, tagged = self._target or (None, False)
        # What was looked up before our last tags were written knows nothing of them.
        tagged = tagged or self._looked_at < self._tagged_at
        seen = Seen(
            now=time.time(),
            target=target,
            target_tagged=tagged,
            fallback=self._fallback,
            slots=await asyncio.to_thread(self._reports.read, state),
            verified=self._outcome if state.phase == "verify" else None,
            golden=self._outcome if state.phase == "golden" else None,
            measured=self._stage.measured(),
            trouble=self._trouble,
        )
        told = tuple(write for write in state.outbox if write != self._tagged)
        following = advance(state.model_copy(update={"outbox": told}), seen, self._config.rollout)
        if following != state:
            await self._change(state, following)

    async def _change(self, state: RolloutState, following: RolloutState) -> None:
        if await asyncio.to_thread(store.write_state, following) is None:
            logger.warning("another controller is at work; reading its document")
            return
        for event in (event for event in following.history if event not in state.history):
            logger.info("rollout %d: version %s: %s", following.rollout, event.version, event.what)
        if following.stage != state.stage:
            self._stage = Stage(number=following.stage)
            self._quiet_since = time.monotonic()
            self._nudged.set()  # the next phase need not wait for the next tick

    def _start_talk(self, state: RolloutState) -> None:
        """Ask and tell MLflow in the background: while it is slow or away, gates go on being judged."""
        loop = asyncio.get_running_loop()
        if (self._looking is None or self._looking.done()) and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + self._config.rollout.poll_s
            self._looking = loop.create_task(
                self._look_up(orphaned=state.active is None and bool(state.refused))
            )
        waiting = [write for write in state.outbox if write != self._tagged]
        if waiting and (self._tagging is None or self._tagging.done()):
            self._tagging = loop.create_task(self._tag(waiting[0]))

    async def _look_up(self, *, orphaned: bool) -> None:
        started = time.monotonic()
        try:
            self._target = await asyncio.to_thread(effects.look_up, self._config)
            self._looked_at = started
            if orphaned:
                name = self._target[0].name
                self._fallback = await asyncio.to_thread(effects.last_served, name, self._config)
        except Exception as error:
            # Without MLflow nothing new begins; what serves goes on, and so does a rollout under way.
            self._target = None
            logger.warning("the alias cannot be looked up: %s", error)
        self._nudged.set()

    async def _tag(self, write: TagWrite) -> None:
        """Write the oldest tags of the outbox; what MLflow does not take stays for a later tick."""
        try:
            await asyncio.to_thread(effects.write_tags, write, self._config)
        except Exception as error:
            logger.warning("tags of version %d cannot be written: %s", write.version, error)
            await asyncio.sleep(self._config.rollout.poll_s)
            return
        self._tagged, self._tagged_at = write, time.monotonic()
        self._look_at = 0.0  # the tags are part of what is looked up
        self._nudged.set()

    def _start_work(self, state: RolloutState) -> None:
        """See to it that the phase's work is done once, in the background, and dropped when the phase is over."""
        key = (state.stage, state.phase)
        if self._work and self._work[0] != key:
            self._work[1].cancel()
            self._work = self._outcome = self._trouble = None
        if self._work and not self._work[1].done():
            return
        work = self._phase_work(state)
        if work:
            self._work = (key, asyncio.get_running_loop().create_task(self._do(work)))

    def _phase_work(self, state: RolloutState) -> Coroutine[Any, Any, None] | None:
        release = state.slots[state.other]
        if state.phase == "verify" and self._outcome is None:
            assert state.candidate
            return self._verify(state.candidate)
        if state.phase == "golden" and self._outcome is None:
            assert release
            return self._check_golden(state.other, release)
        quiet = time.monotonic() - self._quiet_since > self._config.rollout.probe_after_s
        if state.phase in ("shadow", "canary") and state.ready and quiet:
            return self._probe(state)
        return None

    async def _do(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            self._trouble = f"{type(error).__name__}: {error}"
            logger.warning("to be tried again: %s", self._trouble)

    async def _verify(self, candidate: Target) -> None:
        self._outcome = await asyncio.to_thread(effects.verify, candidate, self._config)
        self._nudged.set()

    async def _check_golden(self, slot: SlotName, release: Release) -> None:
        limit = self._config.rollout.golden_tolerance
        try:
            report = await self._ask_golden(slot, release)
        except RayTaskError as error:  # the version's own failure, not Ray's
            self._outcome = Failure(gate="golden", reason=str(error.cause))
            return
        what = f"logits differ by {report.difference:.1e} of the largest (golden_tolerance {limit:g})"
        passed = report.difference <= limit
        self._outcome = what if passed else Failure(gate="golden", reason=what)
        self._nudged.set()

    async def _ask_golden(self, slot: SlotName, release: Release) -> GoldenReport:
        report = await self._slots[slot].golden.remote(release.version)
        if report is None:
            raise RuntimeError(f"version {release.version} is not loaded any more")
        self._golden = (release.identity, report)
        return report

    async def _probe(self, state: RolloutState) -> None:
        """Stand in for traffic where there is none."""
        active, candidate = state.served, state.slots[state.other]
        assert active
        assert candidate
        assert state.active
        known = self._golden if self._golden and self._golden[0] == candidate.identity else None
        report = known[1] if known else await self._ask_golden(state.other, candidate)
        observations = await probe_both(
            active=(self._slots[state.active], active.version),
            candidate=(self._slots[state.other], candidate.version),
            report=report,
            stage=state.stage,
        )
        self._stage.add(observations)
        self._nudged.set()
