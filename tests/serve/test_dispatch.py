"""Calls to a candidate: whatever it does, the client is answered by the version that serves, and the failure counts."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from ray.exceptions import RayTaskError
from sdavs_serve.inference import dispatch
from sdavs_serve.inference.device import DeviceHealth
from sdavs_serve.inference.dispatch import Dispatcher, VersionGone
from sdavs_serve.inference.router import Router
from sdavs_serve.inference.shadow import Observer
from sdavs_serve.model_calls import Masks, ReplicaBroken
from sdavs_serve.rollout import trial_gates
from sdavs_serve.rollout.state import Release, RolloutState
from waiting import patience

from sdavs_model.data.core.clip import Clip

CLIP = Clip(name="clip", frames=np.zeros((1, 4, 4, 3), np.uint8), waveform=np.zeros(16_000, np.float32))


def release(version: int) -> Release:
    target = {"name": "m", "version": version, "run_id": "r", "sha256": "w", "manifest_sha256": f"c{version}"}
    card = {"data_digest": "d", "backbone": "b", "image_size": 64, "num_frames": 5}
    return Release(**target, **card, classes=["background", "sounding"], metrics={})


class Call:
    """A call to a deployment that takes `seconds`."""

    def __init__(self, seconds: float, version: int) -> None:
        self.seconds, self.version, self.cancelled = seconds, version, False

    def __await__(self):
        yield from asyncio.sleep(self.seconds).__await__()
        return Masks(version=self.version, size=(4, 4), frames=[{}])

    def cancel(self) -> None:
        self.cancelled = True


class Failing(Call):
    """A call that fails in the replica."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(0.0, 0)
        self._cause = cause

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        raise RayTaskError("segment", "traceback", self._cause)


class Slot:
    """The handle of a model deployment."""

    def __init__(self, seconds: float) -> None:
        self.calls: list[Call] = []
        self.failures: list[Exception] = []
        """Of the next calls."""
        self.segment = SimpleNamespace(remote=self._segment)
        self._seconds = seconds

    def _segment(self, version: int, clip: Clip, threshold: float, trace: dict | None = None) -> Call:
        failing = Failing(self.failures.pop(0)) if self.failures else None
        self.calls.append(failing or Call(self._seconds, version))
        return self.calls[-1]


class World:
    """Version 1 serves in slot a; version 2 is a candidate in slot b that takes all traffic it can get."""

    def __init__(self, *, candidate_s: float, mirror: float = 0.0) -> None:
        state = RolloutState(
            active="a",
            slots={"a": release(1), "b": release(2)},
            candidate=release(2),
            phase="canary",
            stage=7,
            ready=True,
            weight=1.0,
            mirror=mirror,
        )
        self.slots = {"a": Slot(0.0), "b": Slot(candidate_s)}
        self.watcher = SimpleNamespace(state=state, alive=True)
        self.router = Router(self.watcher)
        self.stage = trial_gates.Stage(number=7)
        controller = SimpleNamespace(observe=SimpleNamespace(remote=self._observe))
        self.observer = Observer(slots=self.slots, controller=controller, call_timeout_s=0.3)
        self.dispatcher = Dispatcher(
            slots=self.slots, router=self.router, observer=self.observer, candidate_timeout_s=0.3
        )

    async def _observe(self, observations) -> None:
        self.stage.add(observations)

    async def errors(self) -> int:
        """Errors of the candidate, when all observations have arrived."""
        await asyncio.sleep(1)
        return self.stage.measured().candidate.errors


def test_a_candidate_that_hangs_is_given_up_and_counted():
    async def scenario() -> None:
        world = World(candidate_s=60)
        route = world.router.choose()
        assert route.who == "candidate"
        started = time.monotonic()
        with pytest.raises(VersionGone, match="did not predict a window within"):
            await asyncio.wait_for(world.dispatcher.predict(route, CLIP, 0.5), patience(5))
        assert time.monotonic() - started < patience(5)
        (call,) = world.slots["b"].calls
        assert call.cancelled
        again = await world.dispatcher.predict(world.router.choose(only_active=True), CLIP, 0.5)
        assert again.version == 1
        assert await world.errors() == 1

    asyncio.run(scenario())


def test_a_candidate_that_hangs_in_shadow_mode_is_counted_too():
    async def scenario() -> None:
        world = World(candidate_s=60, mirror=1.0)
        for _ in range(5):
            route = world.router.choose(only_active=True)
            assert (await world.dispatcher.predict(route, CLIP, 0.5)).version == 1
        assert await world.errors() == 2, "no more than MAX_MIRRORED are sent at once"
        assert all(call.cancelled for call in world.slots["b"].calls)
        await world.dispatcher.predict(world.router.choose(only_active=True), CLIP, 0.5)
        assert await world.errors() == 3, "the calls that hung hold up no later one"

    asyncio.run(scenario())


def test_a_call_is_cancelled_when_its_client_hangs_up_or_the_candidate_is_dropped():
    async def scenario() -> None:
        world = World(candidate_s=60)
        request = asyncio.create_task(world.dispatcher.predict(world.router.choose(), CLIP, 0.5))
        await asyncio.sleep(0.05)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert world.slots["b"].calls[0].cancelled
        waiting = asyncio.create_task(world.dispatcher.predict(world.router.choose(), CLIP, 0.5))
        await asyncio.sleep(0.05)
        world.watcher.state = world.watcher.state.model_copy(update={"ready": False})
        with pytest.raises(VersionGone):
            await asyncio.wait_for(waiting, 5)
        assert world.slots["b"].calls[1].cancelled
        assert await world.errors() == 0, "neither is the candidate's fault"

    asyncio.run(scenario())


def test_a_call_to_the_served_version_is_cancelled_when_its_request_takes_too_long():
    async def scenario() -> None:
        world = World(candidate_s=0)
        world.slots["a"]._seconds = 60
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await world.dispatcher.predict(world.router.choose(only_active=True), CLIP, 0.5)
        assert world.slots["a"].calls[0].cancelled

    asyncio.run(scenario())


def test_a_candidate_that_predicts_in_time_serves_the_request():
    async def scenario() -> None:
        world = World(candidate_s=0.01)
        assert (await world.dispatcher.predict(world.router.choose(), CLIP, 0.5)).version == 2
        assert await world.errors() == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("failures", "version"),
    [
        ([RuntimeError("CUDA error")], 1),
        ([RuntimeError("CUDA error"), ReplicaBroken("CUDA error"), ReplicaBroken("CUDA error")], 1),
        ([ReplicaBroken("CUDA error")] * 3, 1),
        ([RuntimeError("CUDA error"), ReplicaBroken("CUDA error"), RuntimeError("CUDA error")], None),
        ([ValueError("bad clip")] * 2, None),
    ],
)
def test_a_failed_prediction_is_retried_once_and_a_broken_replica_is_avoided(failures, version, monkeypatch):
    monkeypatch.setattr(dispatch, "PAUSE_S", 0.001)

    async def scenario() -> None:
        world = World(candidate_s=0.0)
        world.slots["a"].failures = list(failures)
        route = world.router.choose(only_active=True)
        if version is None:
            with pytest.raises(RayTaskError):
                await world.dispatcher.predict(route, CLIP, 0.5)
        else:
            assert (await world.dispatcher.predict(route, CLIP, 0.5)).version == version
        assert world.slots["a"].failures == []

    asyncio.run(scenario())


def test_a_device_that_has_failed_once_is_broken_for_good():
    async def scenario() -> None:
        health = DeviceHealth(probe_s=0.2)
        await health.check(lambda: None)

        def fail() -> None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        with pytest.raises(RuntimeError, match="no longer computes: RuntimeError: CUDA error"):
            await health.check(fail)
        with pytest.raises(RuntimeError, match="illegal memory access"):
            await health.check(lambda: None)
        patient, loop = DeviceHealth(probe_s=0.2), asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        masks = asyncio.create_task(asyncio.to_thread(time.sleep, 0.5))
        await asyncio.sleep(0)
        await patient.check(lambda: None)
        assert not masks.done(), "other work of the replica does not hold up the probe"
        hanging = DeviceHealth(probe_s=0.05)
        await hanging.check(lambda: time.sleep(0.2), is_busy=lambda: True)
        assert hanging.broken is None, "it waited for a batch"
        with pytest.raises(RuntimeError, match="no result of a small computation within"):
            await hanging.check(lambda: time.sleep(0.3))

    asyncio.run(scenario())
