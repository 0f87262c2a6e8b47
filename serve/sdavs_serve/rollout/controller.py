"""The rollout controller: a Serve deployment that moves the endpoint to the version that the alias points to.

It may be killed at any moment: its state is in the document (`store.py`), and each of its actions can be repeated.
Requests are answered without it.
"""

import asyncio
import logging
import re
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from ray.exceptions import RayTaskError
from ray.serve.handle import DeploymentHandle
from sdavs_platform.config.serve import ServeConfig

from sdavs_serve.model_calls import GoldenReport
from sdavs_serve.rollout import registry, store
from sdavs_serve.rollout.rules import Seen, advance
from sdavs_serve.rollout.state import Failure, Release, RolloutState, SlotName, TagWrite, Target
from sdavs_serve.rollout.synthetic_traffic import compare_on_golden_clip
from sdavs_serve.rollout.trial_gates import Observation, Stage

logger = logging.getLogger("ray.serve")

TICK_S = 0.5
"""Longest pause between two ticks."""

TAG_RETRY_S = 10.0
"""Pause before tags that MLflow did not take are written again."""


class RolloutController:
    """Follows the alias. It receives hints only: a nudge to look the alias up now, and observations of requests."""

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
        self._found: registry.Found | None = None
        self._fallback: Target | None = None
        self._lookup_error: str | None = None
        self._golden: tuple[str, GoldenReport] | None = None
        self._outcome: Any = None
        self._trouble: str | None = None
        self._work: tuple[tuple[int, str], asyncio.Task] | None = None
        self._looking: asyncio.Task | None = None
        self._look_at = self._looked_at = self._tagged_at = 0.0
        self._tagging: asyncio.Task | None = None
        self._delivered: TagWrite | None = None
        self._tag_retry_at: dict[int, float] = {}
        self._quiet_since = time.monotonic()
        self._nudged = asyncio.Event()
        self._loop = asyncio.get_running_loop().create_task(self._run())

    def check_health(self) -> None:
        """Called by Serve, which replaces this replica if it raises."""
        if self._loop.done():
            raise RuntimeError(f"the rollout controller has stopped: {self._loop.exception()}")

    async def nudge(self) -> None:
        """Look the alias up now instead of at the next poll."""
        self._look_at = 0.0
        self._nudged.set()

    async def observe(self, observations: Sequence[Observation]) -> None:
        """Add observations of requests to the current step."""
        self._stage.add(observations)
        self._quiet_since = time.monotonic()

    async def _run(self) -> None:
        while True:
            self._nudged.clear()
            try:
                await self._tick()
            except Exception:
                # MLflow or Ray's head may be unavailable for a while; the next tick starts from the state then.
                logger.exception("the rollout controller failed; retrying")
            try:
                await asyncio.wait_for(self._nudged.wait(), TICK_S)
            except TimeoutError:
                continue

    async def _tick(self) -> None:
        state = await asyncio.to_thread(store.read_state)
        source = registry.source_digest(self._config)
        if state.source != source:
            # Another registry's rollout does not apply here. The revision continues, as the fence between writers.
            alias = self._config.model_uri.partition("@")[2] or None
            state = RolloutState(revision=state.revision, source=source, alias=alias, stage=state.stage)
        if self._stage.number != state.stage:
            self._stage = Stage(number=state.stage)
        self._start_registry_calls(state)
        self._start_work(state)
        found = self._found
        # A look-up from before our last tags were written does not show them.
        tagged = (found is not None and found.tagged) or self._looked_at < self._tagged_at
        seen = Seen(
            now=time.time(),
            target=found.target if found else None,
            target_tagged=tagged,
            target_refusal=found.refusal if found else None,
            fallback=self._fallback,
            trouble_with_alias=self._lookup_error,
            slots=await asyncio.to_thread(self._reports.read, state),
            verified=self._outcome if state.phase == "verify" else None,
            golden=self._outcome if state.phase == "golden" else None,
            measured=self._stage.measured(),
            trouble=self._trouble,
        )
        waiting = tuple(write for write in state.outbox if write != self._delivered)
        following = advance(state.model_copy(update={"outbox": waiting}), seen, self._config.rollout)
        if following != state:
            await self._change(state, following)

    async def _change(self, state: RolloutState, following: RolloutState) -> None:
        if await asyncio.to_thread(store.write_state, following) is None:
            logger.warning("another controller wrote the document; reading it")
            return
        for event in (event for event in following.history if event not in state.history):
            logger.info("rollout %d: version %s: %s", following.rollout, event.version, event.what)
        if following.stage != state.stage:
            self._stage = Stage(number=following.stage)
            self._quiet_since = time.monotonic()
            self._nudged.set()  # the next phase need not wait for the next tick

    def _start_registry_calls(self, state: RolloutState) -> None:
        """Read from and write to MLflow in the background, so that a slow or absent MLflow does not delay the gates."""
        loop = asyncio.get_running_loop()
        if (self._looking is None or self._looking.done()) and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + self._config.rollout.poll_s
            self._looking = loop.create_task(self._look_up(nothing_serves=state.active is None))
        now = time.monotonic()
        waiting = [
            write
            for write in state.outbox
            if write != self._delivered and now >= self._tag_retry_at.get(write.version, 0.0)
        ]
        if waiting and (self._tagging is None or self._tagging.done()):
            self._tagging = loop.create_task(self._tag(waiting[0]))

    async def _look_up(self, *, nothing_serves: bool) -> None:
        started = time.monotonic()
        try:
            found = await asyncio.to_thread(registry.look_up, self._config)
            if nothing_serves:
                name = found.target.name
                self._fallback = await asyncio.to_thread(registry.last_served, name, self._config)
        except Exception as error:
            # Without MLflow no rollout starts; the served version keeps serving, and a rollout under way continues.
            self._found, trouble = None, _one_line(error)
            if trouble != self._lookup_error:
                logger.warning("cannot look up %s: %s", self._config.model_uri, trouble)
            self._lookup_error = trouble
        else:
            self._found, self._lookup_error, self._looked_at = found, None, started
        self._nudged.set()

    async def _tag(self, write: TagWrite) -> None:
        """Write tags of one version. If MLflow does not take them, other versions' tags go first for a while."""
        try:
            known = await asyncio.to_thread(registry.write_tags, write, self._config)
        except Exception as error:
            logger.warning("cannot write tags of version %d: %s", write.version, _one_line(error))
            self._tag_retry_at[write.version] = time.monotonic() + TAG_RETRY_S
            return
        if not known:
            logger.warning(
                "version %d was deleted in MLflow; its tags %s are dropped", write.version, write.tags
            )
        self._delivered, self._tagged_at = write, time.monotonic()
        self._look_at = 0.0  # the tags are part of what is looked up
        self._nudged.set()

    def _start_work(self, state: RolloutState) -> None:
        """Run the phase's work in the background, once, and cancel it when the phase is over."""
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
        # None in the bake: without requests nothing changes for the worse, and the probes would never end.
        if state.phase in ("shadow", "canary") and state.ready and quiet:
            return self._probe(state)
        return None

    async def _do(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            self._trouble = f"{type(error).__name__}: {error}"
            logger.warning(
                "phase %s failed; retrying: %s",
                self._work[0][1] if self._work else "",
                self._trouble,
            )

    async def _verify(self, candidate: Target) -> None:
        self._outcome = await asyncio.to_thread(registry.verify, candidate, self._config)
        self._nudged.set()

    async def _check_golden(self, slot: SlotName, release: Release) -> None:
        limit = self._config.rollout.golden_tolerance
        try:
            report = await self._ask_golden(slot, release)
        except RayTaskError as error:  # the version failed, not Ray
            self._outcome = Failure(gate="golden", reason=str(error.cause))
            return
        what = f"logits differ by {report.difference:.1e} of the largest (golden_tolerance {limit:g})"
        passed = report.difference <= limit
        self._outcome = what if passed else Failure(gate="golden", reason=what)
        self._nudged.set()

    async def _ask_golden(self, slot: SlotName, release: Release) -> GoldenReport:
        report = await self._slots[slot].golden.remote(release.version)
        if report is None:
            raise RuntimeError(f"version {release.version} is no longer loaded")
        self._golden = (release.identity, report)
        return report

    async def _probe(self, state: RolloutState) -> None:
        """Compare both versions on a golden clip while there is no traffic."""
        assert state.trusted
        assert state.tried
        active, candidate = state.slots[state.trusted], state.slots[state.tried]
        assert active
        assert candidate
        known = self._golden if self._golden and self._golden[0] == candidate.identity else None
        report = known[1] if known else await self._ask_golden(state.tried, candidate)
        observations = await compare_on_golden_clip(
            active=(self._slots[state.trusted], active.version),
            candidate=(self._slots[state.tried], candidate.version),
            report=report,
            stage=state.stage,
            timeout_s=self._config.rollout.call_timeout_s,
        )
        self._stage.add(observations)
        self._nudged.set()


def _one_line(error: Exception) -> str:
    """The message of an error, short, and the same for the same cause."""
    text = re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(error).split()))
    return (text or type(error).__name__)[:300]
