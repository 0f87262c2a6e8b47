"""The rules of a rollout: whether a new version takes over, is refused or withdrawn. Pure: no clock, no I/O.

From the document (`state.py`) and what is observed now (`Seen`), `advance` makes the next document.

    idle -> verify -> load -> golden -> shadow -> canary (step by step) -> bake, switched -> idle
              any failed gate -> idle, refused       alias moved before the switch -> idle, withdrawn
              a fault in the bake -> idle, switched back and refused

Level-triggered: only the present state counts, never a message. So a restarted controller continues from the document
alone, and a version that the alias pointed to only briefly is never served.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sdavs_platform.config.serve import RolloutConfig

from sdavs_serve.rollout.state import (
    HISTORY,
    Event,
    Failure,
    GateResult,
    Measured,
    Phase,
    Refusal,
    Release,
    RolloutState,
    SlotName,
    TagWrite,
    Target,
)
from sdavs_serve.rollout.trial_gates import judge, judge_bake, summary

STATE_TAG, GATE_TAG, REASON_TAG, TIME_TAG = "rollout", "rollout_gate", "rollout_reason", "rollout_at"
"""Tags of a model version in MLflow. A refused version is tried again when its tag `rollout` is removed."""

REFUSED = "refused"
"""Value of STATE_TAG."""

SERVED_TAG = "rollout_served_at"
"""When a version last took over, so that an endpoint that lost its state can find a version that was good."""


@dataclass(frozen=True, kw_only=True)
class SlotReport:
    """Summary of the reports of one slot's replicas."""

    loaded: str | None = None
    """`Target.identity` of the version that all live replicas hold, if it is the same."""
    some_loaded: bool = False
    """Whether any live replica holds the version assigned to the slot."""
    failed: str | None = None
    """Why no replica could load the version assigned to the slot."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The observed state, as far as the rules need it."""

    now: float
    """Unix time."""
    target: Target | None = None
    """The version that the alias points to; None if it is unknown."""
    target_tagged: bool = False
    """Whether that version has STATE_TAG."""
    target_refusal: Refusal | None = None
    """Its earlier refusal, according to its tags."""
    fallback: Target | None = None
    """The version that served last according to the tags; looked up together with `target` while no version serves."""
    trouble_with_alias: str | None = None
    """Why the alias could not be looked up; None if it could, or was not tried yet."""
    slots: dict[SlotName, SlotReport] = field(default_factory=dict)
    verified: Release | Failure | None = None
    """Outcome of the candidate's download and checks."""
    golden: str | Failure | None = None
    """Outcome of the candidate's golden clips: the measured difference, or why they failed."""
    measured: Measured = field(default_factory=Measured)
    """Both versions in the current stage."""
    trouble: str | None = None
    """The last error of the current phase's work, which the controller retries."""


def advance(state: RolloutState, seen: Seen, limits: RolloutConfig) -> RolloutState:
    """The next document; the same one if there is nothing to do."""
    state = _follow_alias(_note_trouble(_note_live(state, seen), seen), seen)
    return _PHASES[state.phase](state, seen, limits)


def _note_live(state: RolloutState, seen: Seen) -> RolloutState:
    served = state.served
    live = state.active is not None and _report(state.active, seen).some_loaded
    if state.phase == "bake" and state.trusted:
        live = live or _report(state.trusted, seen).some_loaded
    if live == state.live:
        return state
    if served:
        what = "its replicas are back" if live else "none of its replicas is alive"
        state = _event(state, seen, served.version, what)
    return state.model_copy(update={"live": live})


def _note_trouble(state: RolloutState, seen: Seen) -> RolloutState:
    trouble = seen.trouble_with_alias
    if trouble and not state.trouble:
        state = _event(state, seen, None, f"the alias cannot be followed: {trouble}")
    elif state.trouble and not trouble and seen.target:
        state = _event(state, seen, None, "the alias can be followed again")
    elif not trouble:
        return state
    return state.model_copy(update={"trouble": trouble})


def _follow_alias(state: RolloutState, seen: Seen) -> RolloutState:
    target = seen.target
    if target is None:
        return state
    nothing_served = state.active is None and seen.fallback is None
    if nothing_served != state.nothing_served:
        state = state.model_copy(update={"nothing_served": nothing_served})
    if target.version == state.wanted:
        delivered = not any(write.version == target.version for write in state.outbox)
        if state.refused and delivered and not seen.target_tagged:
            state = _event(state, seen, target.version, f"tag {STATE_TAG} removed: will be tried again")
            return state.model_copy(update={"refused": None, "given_up": ()})
        return state
    is_new = state.wanted is None
    state = state.model_copy(update={"wanted": target.version, "refused": None, "given_up": ()})
    state = _event(state, seen, target.version, "the alias points here")
    if is_new and seen.target_refusal:
        # The document was lost, or the endpoint was deployed on another cluster. MLflow still has the verdict.
        state = state.model_copy(update={"refused": seen.target_refusal, "given_up": (target.version,)})
        state = _event(state, seen, target.version, f"was refused before: {seen.target_refusal.reason}")
    if state.phase == "bake":
        assert state.served
        state = _event(state, seen, state.served.version, "the bake ended: the alias was moved")
        return _enter(state, seen, "idle")
    if state.candidate and state.candidate.version != target.version:
        back = state.served is not None and state.served.version == target.version
        where = "back to the served version" if back else f"to version {target.version}"
        state = _drop(state, seen, tag="withdrawn", gate=state.phase, reason=f"the alias was moved {where}")
    return state


def _idle(state: RolloutState, seen: Seen, limits: RolloutConfig) -> RolloutState:
    if state.active is None:
        goal = _first_goal(state, seen)
    elif state.refused:
        return state
    else:
        goal = seen.target
    if goal is None or (state.served and state.served.version == goal.version):
        return state
    warm = state.slots[state.other]
    if warm and warm.identity == goal.identity and _holds(state.other, warm, seen):
        state = state.model_copy(update={"rollout": state.rollout + 1, "gates": (), "candidate": goal})
        return _switch(state, seen, "it was still loaded")
    state = state.model_copy(
        update={"rollout": state.rollout + 1, "candidate": goal, "gates": (), "restarts": 0}
    )
    state = _tag(state, seen, goal, {STATE_TAG: "rolling out"})
    return _enter(_event(state, seen, goal.version, "rollout started"), seen, "verify")


def _first_goal(state: RolloutState, seen: Seen) -> Target | None:
    """What to serve while no version does: the one that served last, so that a newer one is compared with it."""
    if seen.target is None:
        return None
    goals = (goal for goal in (seen.fallback, seen.target) if goal and goal.version not in state.given_up)
    return next(goals, None)


def _verify(state: RolloutState, seen: Seen, limits: RolloutConfig) -> RolloutState:
    outcome = seen.verified
    if isinstance(outcome, Failure):
        return _refuse(state, seen, outcome)
    if outcome is None:
        return _in_time(state, seen, limits.verify_timeout_s, gate="digest", what="downloaded and checked")
    assert state.candidate
    assert outcome.identity == state.candidate.identity
    state = _gate(state, seen, "digest", f"weights {outcome.sha256[:12]} as registered")
    state = _gate(state, seen, "signature", f"{outcome.num_frames} frames of {outcome.image_size} pixels")
    state = state.model_copy(update={"slots": state.slots | {state.other: outcome}})
    return _enter(state, seen, "load")


def _load(state: RolloutState, seen: Seen, limits: RolloutConfig) -> RolloutState:
    release = state.slots[state.other]
    assert release
    if failed := _report(state.other, seen).failed:
        return _refuse(state, seen, Failure(gate="load", reason=failed))
    if not _holds(state.other, release, seen):
        return _in_time(state, seen, limits.load_timeout_s, gate="load", what="loaded")
    state = _gate(state, seen, "load", "loaded next to the served version and warmed up")
    return _enter(state, seen, "golden")


def _golden(state: RolloutState, seen: Seen, limits: RolloutConfig) -> RolloutState:
    if isinstance(seen.golden, Failure):
        return _refuse(state, seen, seen.golden)
    if seen.golden is None:
        release = state.slots[state.other]
        assert release
        if not _holds(state.other, release, seen):
            state = _lose(state, seen, limits)
            again = state.model_copy(update={"gates": state.gates[:-1]})  # without the load gate
            return _enter(again, seen, "load") if state.candidate else state
        return _in_time(state, seen, limits.load_timeout_s, gate="golden", what="checked")
    state = _gate(state, seen, "golden", seen.golden)
    # A first version, or one that replaces a broken one, has nothing to be compared with.
    if state.active is None or _report(state.active, seen).failed:
        return _switch(state, seen, "no other version could serve")
    return _enter(state, seen, "shadow", mirror=limits.shadow_share)


def _trial(state: RolloutState, seen: Seen, limits: RolloutConfig) -> RolloutState:
    """Shadow and canary: the candidate has traffic."""
    release = state.slots[state.other]
    assert release
    if not _holds(state.other, release, seen):
        if state.ready:
            state = _lose(state, seen, limits)
            return state.model_copy(update={"ready": False, "since": seen.now, "measured": Measured()})
        if failed := _report(state.other, seen).failed:
            return _refuse(
                state, seen, Failure(gate="stability", reason=f"could not be loaded again: {failed}")
            )
        return _in_time(state, seen, limits.load_timeout_s, gate="stability", what="loaded again")
    if not state.ready:
        state = _event(state, seen, release.version, f"loaded again; the {state.phase} continues")
        return _enter(
            state, seen, state.phase, mirror=limits.shadow_share, step=state.step, weight=state.weight
        )
    state = state.model_copy(update={"measured": seen.measured})
    verdict = judge(
        seen.measured, elapsed=seen.now - state.since, comparing=state.phase == "shadow", limits=limits
    )
    if verdict.decision == "wait":
        return state
    name = "shadow" if state.phase == "shadow" else f"canary {state.weight:.0%}"
    if verdict.decision == "refuse":
        return _refuse(state, seen, Failure(gate=name, reason=verdict.detail))
    state = _gate(state, seen, name, verdict.detail)
    step = 0 if state.phase == "shadow" else state.step + 1
    if step == len(limits.canary_weights):
        return _switch(state, seen, "all gates passed", limits)
    weight = limits.canary_weights[step]
    return _enter(state, seen, "canary", mirror=limits.shadow_share, step=step, weight=weight)


def _bake(state: RolloutState, seen: Seen, limits: RolloutConfig) -> RolloutState:
    """After the switch: the new version serves, and the previous one takes over again if it fails."""
    served, before = state.served, state.slots[state.other]
    assert served
    assert before
    assert state.bake_until is not None
    over = seen.now >= state.bake_until
    if not _holds(state.other, before, seen):
        if state.ready:
            what = f"version {before.version} was lost: nothing to compare with or to return to"
            return _enter(_event(state, seen, served.version, what), seen, "bake", ready=False)
        return _end_bake(state, seen) if over else state
    report = _report(state.active, seen) if state.active else SlotReport()
    if not report.some_loaded:
        return _bake_without_replicas(state, seen, limits, failed=report.failed)
    if not (state.ready and state.weight):
        state = _event(state, seen, served.version, "the bake continues")
        return _enter(state, seen, "bake", mirror=limits.shadow_share, weight=1.0)
    state = state.model_copy(update={"measured": seen.measured})
    verdict = judge_bake(seen.measured, elapsed=seen.now - state.since, limits=limits)
    if verdict.decision == "refuse":
        return _roll_back(state, seen, Failure(gate="bake", reason=verdict.detail))
    if over:
        return _end_bake(state, seen)
    if verdict.decision == "pass":
        return _enter(state, seen, "bake", mirror=limits.shadow_share, weight=1.0)
    return state


def _bake_without_replicas(
    state: RolloutState, seen: Seen, limits: RolloutConfig, *, failed: str | None
) -> RolloutState:
    """The previous version serves until the new one has a replica again."""
    served = state.served
    assert served
    if failed:
        return _roll_back(
            state, seen, Failure(gate="stability", reason=f"could not be loaded again: {failed}")
        )
    if state.ready and not state.weight:
        if seen.now - state.since <= limits.load_timeout_s:
            return state
        reason = f"not loaded again within {limits.load_timeout_s:g} s"
        return _roll_back(state, seen, Failure(gate="stability", reason=reason))
    if state.restarts == limits.max_restarts:
        return _roll_back(state, seen, _lost_too_often(state, limits))
    state = state.model_copy(update={"restarts": state.restarts + 1})
    state = _event(
        state, seen, served.version, "its replicas were lost in the bake; the version before answers"
    )
    return _enter(state, seen, "bake")


def _end_bake(state: RolloutState, seen: Seen) -> RolloutState:
    served = state.served
    assert served
    state = _gate(state, seen, "bake", summary(state.measured))
    return _enter(_event(state, seen, served.version, "the bake is over"), seen, "idle")


def _roll_back(state: RolloutState, seen: Seen, failure: Failure) -> RolloutState:
    """The previous version serves again; the one that replaced it is refused."""
    before = state.slots[state.other]
    assert before
    state = state.model_copy(
        update={
            "active": state.other,
            "candidate": state.served,
            "live": True,
            "rollbacks": state.rollbacks + 1,
        }
    )
    state = _refuse(state, seen, failure)
    why = f"rolled back to it: {failure.reason}"
    state = _tag(state, seen, before, {STATE_TAG: "serving", REASON_TAG: why, SERVED_TAG: _iso(seen.now)})
    return _event(state, seen, before.version, f"serves: {why}")


def _lost_too_often(state: RolloutState, limits: RolloutConfig) -> Failure:
    reason = f"its replicas were lost {state.restarts + 1} times (max_restarts {limits.max_restarts})"
    return Failure(gate="stability", reason=reason)


def _lose(state: RolloutState, seen: Seen, limits: RolloutConfig) -> RolloutState:
    """Record that a replica of the candidate was lost; refuse the candidate if that has happened too often."""
    candidate = state.candidate
    assert candidate
    if state.restarts == limits.max_restarts:
        return _refuse(state, seen, _lost_too_often(state, limits))
    what = f"a replica was lost in the {state.phase}; waiting for another one"
    state = state.model_copy(update={"restarts": state.restarts + 1})
    return _event(state, seen, candidate.version, what)


_PHASES: dict[Phase, Callable[[RolloutState, Seen, RolloutConfig], RolloutState]] = {
    "idle": _idle,
    "verify": _verify,
    "load": _load,
    "golden": _golden,
    "shadow": _trial,
    "canary": _trial,
    "bake": _bake,
}


def _enter(
    state: RolloutState,
    seen: Seen,
    phase: Phase,
    *,
    mirror: float = 0.0,
    step: int = 0,
    weight: float = 0.0,
    ready: bool = True,
) -> RolloutState:
    return state.model_copy(
        update={
            "phase": phase,
            "since": seen.now,
            "stage": state.stage + 1,
            "ready": ready and phase in ("shadow", "canary", "bake"),
            "bake_until": state.bake_until if phase == "bake" else None,
            "mirror": mirror,
            "step": step,
            "weight": weight,
            "measured": Measured(),
        }
    )


def _switch(state: RolloutState, seen: Seen, why: str, limits: RolloutConfig | None = None) -> RolloutState:
    """The candidate serves. With `limits`, a bake follows: it was compared with the previous version."""
    candidate, before = state.candidate, state.served
    assert candidate
    state = state.model_copy(update={"active": state.other, "candidate": None, "live": True})
    at = {SERVED_TAG: _iso(seen.now)}
    state = _tag(state, seen, candidate, {STATE_TAG: "serving", GATE_TAG: "", REASON_TAG: why} | at)
    if before:
        state = _tag(state, seen, before, {STATE_TAG: "served before"})
    state = _event(state, seen, candidate.version, f"serves: {why}")
    if limits is None or not limits.bake_s:
        return _enter(state, seen, "idle")
    state = state.model_copy(update={"bake_until": seen.now + limits.bake_s})
    return _enter(state, seen, "bake", mirror=limits.shadow_share, weight=1.0)


def _refuse(state: RolloutState, seen: Seen, failure: Failure) -> RolloutState:
    candidate = state.candidate
    assert candidate
    result = GateResult(gate=failure.gate, passed=False, detail=failure.reason, at=seen.now)
    state = state.model_copy(update={"gates": (*state.gates, result)})
    if candidate.version == state.wanted:
        refusal = Refusal(version=candidate.version, gate=failure.gate, reason=failure.reason, at=seen.now)
        state = state.model_copy(update={"refused": refusal})
    if state.active is None:
        state = state.model_copy(update={"given_up": (*state.given_up, candidate.version)})
    return _drop(state, seen, tag=REFUSED, gate=failure.gate, reason=failure.reason)


def _drop(state: RolloutState, seen: Seen, *, tag: str, gate: str, reason: str) -> RolloutState:
    """Drop the candidate; the served version keeps serving."""
    candidate = state.candidate
    assert candidate
    state = _tag(state, seen, candidate, {STATE_TAG: tag, GATE_TAG: gate, REASON_TAG: reason})
    state = _event(state, seen, candidate.version, f"{tag} at {gate}: {reason}")
    held = state.slots[state.other]
    if held and held.identity == candidate.identity:
        state = state.model_copy(update={"slots": state.slots | {state.other: None}})
    return _enter(state.model_copy(update={"candidate": None}), seen, "idle")


def _in_time(state: RolloutState, seen: Seen, limit_s: float, *, gate: str, what: str) -> RolloutState:
    if seen.now - state.since <= limit_s:
        return state
    reason = f"not {what} within {limit_s:g} s" + (f"; last: {seen.trouble}" if seen.trouble else "")
    return _refuse(state, seen, Failure(gate=gate, reason=reason))


def _gate(state: RolloutState, seen: Seen, gate: str, detail: str) -> RolloutState:
    result = GateResult(gate=gate, passed=True, detail=detail, at=seen.now)
    return state.model_copy(update={"gates": (*state.gates, result)})


def _event(state: RolloutState, seen: Seen, version: int | None, what: str) -> RolloutState:
    event = Event(at=seen.now, version=version, what=what)
    return state.model_copy(update={"history": (*state.history, event)[-HISTORY:]})


def _tag(state: RolloutState, seen: Seen, target: Target, tags: dict[str, str]) -> RolloutState:
    # One write a version: the queue stays short however long MLflow takes nothing.
    merged, others = {}, []
    for write in state.outbox:
        if (write.name, write.version) == (target.name, target.version):
            merged = write.tags
        else:
            others.append(write)
    tags = merged | tags | {TIME_TAG: _iso(seen.now)}
    write = TagWrite(name=target.name, version=target.version, tags=tags)
    return state.model_copy(update={"outbox": (*others, write)})


def _report(slot: SlotName, seen: Seen) -> SlotReport:
    return seen.slots.get(slot, SlotReport())


def _holds(slot: SlotName, release: Release, seen: Seen) -> bool:
    return _report(slot, seen).loaded == release.identity


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
