"""The rollout's rules, without Ray: from a document and what is seen to the next document."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from sdavs_platform.config.serve import RolloutConfig
from sdavs_serve.inference.router import Router
from sdavs_serve.rollout.rules import STATE_TAG, Seen, SlotReport, advance
from sdavs_serve.rollout.state import Failure, Measured, Refusal, Release, RolloutState, Side, Target
from sdavs_serve.rollout.trial_gates import Observation, Stage, judge, judge_bake

LIMITS = RolloutConfig(
    step_seconds=10, step_samples=20, canary_weights=(0.1, 0.5), bake_s=60, load_timeout_s=100
)
GOOD = Measured(
    active=Side(requests=50, p50_ms=90, p95_ms=100),
    candidate=Side(requests=50, p50_ms=90, p95_ms=110),
    compared=30,
    disagreement=0.1,
)


def target(version: int) -> Target:
    return Target(name="m", version=version, run_id="r", sha256=f"w{version}", manifest_sha256=f"c{version}")


def release(version: int) -> Release:
    card = {"data_digest": "d", "backbone": "b", "image_size": 64, "num_frames": 5}
    return Release(**target(version).model_dump(), **card, classes=["background", "sounding"], metrics={})


class World:
    """A world that does what it is asked, and a controller that may be replaced by a new one at any tick."""

    def __init__(self) -> None:
        self.state = RolloutState()
        self.now = 1000.0
        self.alias = 1
        self.tagged = True
        self.verified: Callable[[Target], Release | Failure] = lambda wanted: release(wanted.version)
        self.golden: str | Failure | None = "good"
        self.measured = GOOD
        self.lost: set[str] = set()
        self.broken: str | None = None
        self.fallback: int | None = None
        self.refusal: Refusal | None = None
        self.trouble: str | None = None

    def tick(self) -> RolloutState:
        self.now += 11
        reports = {
            slot: SlotReport(
                loaded=held.identity if held and slot not in self.lost else None,
                some_loaded=held is not None and slot not in self.lost,
                failed=self.broken,
            )
            for slot, held in self.state.slots.items()
        }
        candidate = self.state.candidate
        seen = Seen(
            now=self.now,
            target=None if self.trouble else target(self.alias),
            target_tagged=self.tagged,
            target_refusal=self.refusal,
            fallback=None if self.fallback is None else target(self.fallback),
            trouble_with_alias=self.trouble,
            slots=reports,
            verified=self.verified(candidate) if candidate else None,
            golden=self.golden,
            measured=self.measured,
        )
        following = advance(self.state, seen, LIMITS)
        # As a new controller reads it from the store.
        self.state = RolloutState.model_validate_json(following.model_dump_json())
        return self.state

    def until(self, what: Callable[[RolloutState], bool]) -> RolloutState:
        for _ in range(30):
            if what(self.tick()):
                return self.state
        raise AssertionError(f"never: {self.state}")

    def serving(self) -> int | None:
        return self.state.served.version if self.state.served else None

    def tags(self, version: int) -> dict[str, str]:
        return {
            k: v for write in self.state.outbox if write.version == version for k, v in write.tags.items()
        }


@pytest.fixture
def world() -> World:
    """Version 1 serves."""
    made = World()
    made.until(lambda state: state.active is not None)
    return made


def test_the_first_version_serves_after_its_golden_clips_without_a_shadow(world):
    assert world.serving() == 1
    assert [gate.gate for gate in world.state.gates] == ["digest", "signature", "load", "golden"]
    assert world.tags(1)[STATE_TAG] == "serving"


def test_a_good_version_takes_over_step_by_step_and_the_old_one_stays_warm(world):
    world.alias = 2
    phases, weights = [], []
    while world.serving() == 1:
        state = world.tick()
        phases.append(state.phase)
        weights.append(state.weight)
    assert list(dict.fromkeys(phases)) == ["verify", "load", "golden", "shadow", "canary", "bake"]
    assert sorted(set(weights)) == [0.0, 0.1, 0.5, 1.0]
    assert [gate.gate for gate in state.gates][-3:] == ["shadow", "canary 10%", "canary 50%"]
    assert {held.version for held in state.slots.values()} == {1, 2}
    assert (world.tags(1)[STATE_TAG], world.tags(2)[STATE_TAG]) == ("served before", "serving")


def test_moving_the_alias_back_switches_at_once(world):
    world.alias = 2
    world.until(lambda state: world.serving() == 2)
    world.alias = 1
    world.tick()
    assert (world.serving(), world.state.phase) == (1, "idle")


@pytest.mark.parametrize(
    ("gate", "spoil"),
    [
        ("digest", lambda world: setattr(world, "verified", lambda _: Failure(gate="digest", reason="x"))),
        ("load", lambda world: setattr(world, "broken", "out of memory")),
        ("golden", lambda world: setattr(world, "golden", Failure(gate="golden", reason="differs"))),
        ("shadow", lambda world: setattr(world, "measured", GOOD.model_copy(update={"disagreement": 0.9}))),
    ],
)
def test_a_failed_gate_leaves_the_old_version_serving_and_says_why(world, gate, spoil):
    spoil(world)
    world.alias = 2
    state = world.until(lambda state: state.refused is not None)
    assert (world.serving(), state.phase, state.refused.gate) == (1, "idle", gate)
    assert state.slots[state.other] is None, "the refused version is unloaded"
    assert world.tags(2)[STATE_TAG] == "refused"
    assert world.tags(2)["rollout_gate"] == gate
    assert world.tick().phase == "idle", "it is not tried again by itself"


def test_a_canary_that_fails_rolls_back_by_itself(world):
    world.alias = 2
    world.until(lambda state: state.weight == 0.5)
    world.measured = GOOD.model_copy(update={"candidate": Side(requests=50, errors=9, p95_ms=100)})
    state = world.tick()
    assert (world.serving(), state.weight, state.refused.gate) == (1, 0.0, "canary 50%")


def test_removing_the_tag_has_a_refused_version_tried_again(world):
    world.golden, world.alias = Failure(gate="golden", reason="differs"), 2
    world.until(lambda state: state.refused is not None)
    world.state = world.state.model_copy(update={"outbox": ()})  # MLflow has the tags
    world.golden, world.tagged = "good", False
    world.until(lambda state: world.serving() == 2)


def test_of_concurrent_moves_the_last_one_wins(world):
    world.alias = 2
    world.until(lambda state: state.phase == "canary")
    world.alias = 3
    state = world.until(lambda state: world.serving() == 3)
    assert world.tags(2)[STATE_TAG] == "withdrawn"
    assert 2 not in {held.version for held in state.slots.values()}


def test_moving_the_alias_back_in_the_canary_ends_it(world):
    world.alias = 2
    world.until(lambda state: state.phase == "canary")
    world.alias = 1
    state = world.tick()
    assert (world.serving(), state.phase, state.weight, state.refused) == (1, "idle", 0.0, None)


def test_a_version_is_not_taken_for_loaded_where_another_one_of_the_same_files_is():
    warm, served = release(1), release(2)
    wanted = release(3).model_copy(update={"manifest_sha256": warm.manifest_sha256})
    state = RolloutState(
        phase="load", active="b", slots={"a": wanted, "b": served}, candidate=wanted, wanted=3, since=999.0
    )

    def following(held: Release) -> RolloutState:
        slots = {"a": SlotReport(loaded=held.identity), "b": SlotReport(loaded=served.identity)}
        return advance(state, Seen(now=1000.0, target=wanted, slots=slots), LIMITS)

    assert (following(warm).phase, following(wanted).phase) == ("load", "golden")


def test_a_candidate_that_is_lost_over_its_golden_clips_is_loaded_again(world):
    world.alias, world.golden = 2, None
    state = world.until(lambda state: state.phase == "golden")
    world.lost = {state.other}
    assert world.tick().phase == "load"
    world.lost, world.golden = set(), "good"
    state = world.until(lambda state: state.phase == "shadow")
    assert [gate.gate for gate in state.gates] == ["digest", "signature", "load", "golden"]
    assert state.restarts == 1


def test_a_lost_candidate_gets_no_traffic_until_it_is_back_and_the_step_starts_again(world):
    world.alias = 2
    state = world.until(lambda state: state.phase == "canary")
    step, stage = state.step, state.stage
    world.lost = {state.other}
    assert not world.tick().ready
    world.lost = set()
    state = world.tick()
    assert (state.ready, state.step, state.measured.candidate.requests) == (True, step, 0)
    assert state.stage > stage, "what was measured before does not count"


def test_a_candidate_that_is_lost_again_and_again_is_refused(world):
    world.alias = 2
    state = world.until(lambda state: state.phase == "shadow")
    world.measured = Measured()
    for _ in range(LIMITS.max_restarts + 1):
        world.lost = {state.other}
        world.tick()
        world.lost = set()
        world.tick()
    assert world.state.refused.gate == "stability"


def test_observations_of_an_earlier_step_do_not_count():
    stage = Stage(number=7)
    late = Observation(stage=6, who="candidate", ok=False, seconds=1.0)
    seen = Observation(stage=7, who="candidate", ok=True, seconds=0.5, disagreement=0.25)
    stage.add([late, seen])
    assert (stage.measured().candidate.requests, stage.measured().candidate.errors) == (1, 0)
    assert stage.measured().disagreement == 0.25


def test_a_step_waits_for_enough_answers_and_refuses_a_slow_version():
    few = GOOD.model_copy(update={"candidate": Side(requests=3, p95_ms=500)})
    assert judge(few, elapsed=11, comparing=True, limits=LIMITS).decision == "wait"
    slow = GOOD.model_copy(update={"candidate": Side(requests=30, p50_ms=400, p95_ms=500)})
    verdict = judge(slow, elapsed=11, comparing=True, limits=LIMITS)
    assert (verdict.decision, "max_latency_ratio" in verdict.detail) == ("refuse", True)
    one_slow = Measured(
        active=Side(requests=30, p50_ms=90, p95_ms=100),
        candidate=Side(requests=30, p50_ms=90, p95_ms=900),
        compared=30,
    )
    assert judge(one_slow, elapsed=11, comparing=True, limits=LIMITS).decision == "pass"
    tail = one_slow.model_copy(
        update={
            side: getattr(one_slow, side).model_copy(update={"requests": 90})
            for side in ("active", "candidate")
        }
    )
    assert judge(tail, elapsed=11, comparing=True, limits=LIMITS).decision == "refuse"
    assert judge(GOOD, elapsed=3, comparing=True, limits=LIMITS).decision == "wait"
    assert judge(few, elapsed=5000, comparing=True, limits=LIMITS).decision == "refuse"


def fails(*versions: int) -> Callable[[Target], Release | Failure]:
    """A verification that these versions do not pass."""
    wrong = Failure(gate="digest", reason="sha256 differs")
    return lambda wanted: wrong if wanted.version in versions else release(wanted.version)


def test_a_lost_document_begins_with_what_was_served_and_the_alias_version_is_compared_with_it():
    world = World()
    world.alias, world.fallback = 2, 1
    phases = []
    while world.serving() != 2:
        state = world.tick()
        phases.append((world.serving(), state.phase))
    assert (None, "golden") in phases
    assert {(1, "shadow"), (1, "canary")} <= set(phases), "version 2 has been compared with version 1"
    assert (None, "shadow") not in phases


def test_a_lost_document_does_not_serve_what_was_refused_before():
    world = World()
    world.alias, world.fallback = 2, 1
    world.refusal = Refusal(version=2, gate="shadow", reason="masks differ by 0.93", at=7.0)
    world.until(lambda state: world.serving() == 1)
    for _ in range(5):
        state = world.tick()
    assert (world.serving(), state.phase, state.refused) == (1, "idle", world.refusal)
    assert world.tags(2) == {}, "its tags stay as they are"
    world.tagged, world.refusal = False, None  # the tag is removed
    world.until(lambda state: world.serving() == 2)


def test_a_lost_document_serves_nothing_if_only_a_refused_version_is_there():
    world = World()
    world.refusal = Refusal(version=1, gate="golden", reason="differs", at=7.0)
    for _ in range(5):
        state = world.tick()
    assert (world.serving(), state.phase, state.refused, state.nothing_served) == (
        None,
        "idle",
        world.refusal,
        True,
    )


def test_if_what_was_served_is_gone_the_alias_version_is_served():
    world = World()
    world.alias, world.fallback, world.verified = 2, 1, fails(1)
    state = world.until(lambda state: world.serving() == 2)
    assert (state.refused, world.tags(1)[STATE_TAG]) == (None, "refused")
    assert "shadow" not in {gate.gate for gate in state.gates}, "there was nothing to compare with"


def test_versions_that_all_fail_are_each_tried_once():
    world = World()
    world.alias, world.fallback, world.verified = 2, 1, fails(1, 2)
    world.until(lambda state: state.given_up == (1, 2))
    rollouts = world.state.rollout
    for _ in range(5):
        state = world.tick()
    assert (state.rollout, state.refused.version, state.nothing_served) == (rollouts, 2, False)
    world.alias, world.verified = 3, fails(1, 2)
    world.until(lambda state: world.serving() == 3)


def test_an_alias_that_cannot_be_followed_is_reported_and_what_serves_keeps_serving(world):
    world.trouble = "version 9 has no sha256 tag, so it cannot be verified"
    for _ in range(3):
        state = world.tick()
    assert (state.trouble, world.serving()) == (world.trouble, 1)
    assert len([event for event in state.history if "cannot be followed" in event.what]) == 1, "logged once"
    world.trouble, world.alias = None, 2
    assert world.tick().trouble is None
    world.until(lambda state: world.serving() == 2)


def test_the_queue_of_tags_has_one_entry_a_version(world):
    for alias in (2, 3, 2, 3):
        world.alias = alias
        world.until(lambda state, alias=alias: world.serving() == alias)
    queued = [write.version for write in world.state.outbox]
    assert sorted(queued) == [1, 2, 3]
    assert (world.tags(2)[STATE_TAG], world.tags(3)[STATE_TAG]) == ("served before", "serving")


def test_the_document_tells_when_no_replica_of_the_served_version_is_alive(world):
    assert world.tick().live
    world.lost = {world.state.active}
    assert not world.tick().live
    assert world.serving() == 1, "it serves again as soon as there is a replica"
    assert world.state.history[-1].what == "none of its replicas is alive"
    world.lost = set()
    assert world.tick().live


BAD = GOOD.model_copy(update={"candidate": Side(requests=50, errors=9, p50_ms=90, p95_ms=100)})


@pytest.fixture
def baking(world) -> World:
    """Version 2 has just taken over from version 1."""
    world.alias = 2
    world.until(lambda state: state.phase == "bake")
    return world


def test_after_the_switch_the_new_version_is_watched_for_a_while(baking):
    state = baking.state
    assert (baking.serving(), state.weight, state.slots[state.trusted].version) == (2, 1.0, 1)
    assert baking.tags(2)[STATE_TAG] == "serving"
    stages, since = set(), baking.now
    while baking.tick().phase == "bake":
        stages.add(baking.state.stage)
    assert baking.now - since == pytest.approx(LIMITS.bake_s, abs=11)
    assert len(stages) > 1, "measuring starts again with each step"
    assert (baking.serving(), baking.state.gates[-1].gate, baking.state.bake_until) == (2, "bake", None)
    assert baking.state.refused is None


def test_a_version_that_turns_bad_in_its_bake_is_rolled_back_by_itself(baking):
    baking.tick()
    baking.measured = BAD
    state = baking.tick()
    assert (baking.serving(), state.phase, state.refused.gate, state.rollbacks) == (1, "idle", "bake", 1)
    assert state.slots[state.other] is None, "the bad version is unloaded"
    assert (baking.tags(1)[STATE_TAG], baking.tags(2)[STATE_TAG]) == ("serving", "refused")
    assert "9 errors" in baking.tags(1)["rollout_reason"]
    assert state.history[-1].version == 1
    baking.measured = GOOD
    assert baking.until(lambda state: True).phase == "idle", "it is not tried again by itself"


def test_without_a_bake_the_switch_is_the_end(world, monkeypatch):
    monkeypatch.setattr(f"{__name__}.LIMITS", LIMITS.model_copy(update={"bake_s": 0.0}))
    world.alias = 2
    world.until(lambda state: world.serving() == 2)
    assert (world.state.phase, world.state.ready) == ("idle", False)


def test_a_single_error_rolls_nothing_back_and_late_ones_are_not_diluted():
    one = GOOD.model_copy(update={"candidate": Side(requests=20, errors=1, p50_ms=90, p95_ms=100)})
    assert judge_bake(one, elapsed=5, limits=LIMITS).decision == "wait"
    assert judge_bake(one, elapsed=11, limits=LIMITS).decision == "pass"
    assert judge_bake(BAD, elapsed=1, limits=LIMITS).decision == "refuse"
    quiet = Measured()
    assert judge_bake(quiet, elapsed=LIMITS.step_timeout_s - 1, limits=LIMITS).decision == "wait"
    assert judge_bake(quiet, elapsed=LIMITS.step_timeout_s + 1, limits=LIMITS).decision == "pass"


def test_in_the_bake_moving_the_alias_back_switches_and_elsewhere_starts_a_rollout(baking):
    baking.alias = 1
    state = baking.until(lambda state: baking.serving() == 1)
    assert (state.phase, state.refused, state.rollbacks) == ("idle", None, 0)
    baking.alias = 3
    state = baking.until(lambda state: baking.serving() == 3)
    assert state.phase == "bake"


def test_in_the_bake_the_version_before_answers_while_the_new_one_has_no_replica(baking):
    slot = baking.state.active
    for lost in range(LIMITS.max_restarts):
        baking.lost = {slot}
        state = baking.tick()
        assert (state.ready, state.weight, state.live) == (True, 0.0, True)
        assert (state.tried, state.trusted) == (slot, state.other)
        baking.lost = set()
        assert baking.tick().weight == 1.0
        assert baking.state.restarts == lost + 1
    baking.lost = {slot}
    state = baking.tick()
    assert (baking.serving(), state.refused.gate) == (1, "stability")


def test_a_new_version_that_does_not_come_back_in_its_bake_is_rolled_back(baking):
    baking.lost = {baking.state.active}
    state = baking.until(lambda state: state.refused is not None)
    assert (baking.serving(), state.refused.reason) == (1, "not loaded again within 100 s")


def test_in_the_bake_a_lost_version_before_leaves_the_new_one_alone_with_the_requests(baking):
    baking.lost = {baking.state.other}
    state = baking.tick()
    assert (baking.serving(), state.phase, state.tried, state.trusted) == (2, "bake", None, state.active)
    baking.lost = set()
    assert baking.tick().tried == baking.state.active
    baking.lost = {baking.state.other}
    baking.until(lambda state: state.phase == "idle")
    assert (baking.serving(), baking.state.refused) == (2, None)


def test_in_the_bake_a_failed_request_is_answered_by_the_version_before(baking):
    router = Router(SimpleNamespace(state=baking.state, alive=True))
    first, second = router.choose(), router.choose(only_active=True)
    assert (first.release.version, first.who, first.mirror.version) == (2, "candidate", 1)
    assert (second.release.version, second.who, second.mirror.version) == (1, "active", 2)
    assert router.served().release.version == 2
