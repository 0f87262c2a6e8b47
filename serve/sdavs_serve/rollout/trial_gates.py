"""The gates of shadow and canary: is the new version good enough for the next step, by errors, latency and masks?

The gates before them: digest and signature are checked in `registry.py`, golden clips in `controller.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from sdavs_platform.config.serve import RolloutConfig

from sdavs_serve.rollout.state import Measured, Side

MAX_KEPT = 2000
"""Times and comparisons kept of one step; a long step is judged by its last ones."""


TAIL_SAMPLES = 60
"""Predictions of either version from which the 95th percentile is judged. Among fewer it is chance (the slowest one or
two), and the median is judged instead."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """The outcome of one window of a request, as seen by the ingress."""

    stage: int
    """`RolloutState.stage` when the request chose its version."""
    who: Literal["active", "candidate"]
    ok: bool
    """False: the version failed."""
    seconds: float
    """From the call of the model to its prediction."""
    disagreement: float | None = None
    """1 - IoU with the other version's masks, where there are both."""


@dataclass(kw_only=True)
class Stage:
    """What was observed in one step."""

    number: int = -1
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"active": [], "candidate": []})
    errors: dict[str, int] = field(default_factory=lambda: {"active": 0, "candidate": 0})
    requests: dict[str, int] = field(default_factory=lambda: {"active": 0, "candidate": 0})
    disagreements: list[float] = field(default_factory=list)

    def add(self, observations: Sequence[Observation]) -> None:
        """Add observations of this stage; late ones of an earlier stage are dropped."""
        for seen in observations:
            if seen.stage != self.number:
                continue
            self.requests[seen.who] += 1
            if seen.ok:
                self.seconds[seen.who] = [*self.seconds[seen.who], seen.seconds][-MAX_KEPT:]
            else:
                self.errors[seen.who] += 1
            if seen.disagreement is not None:
                self.disagreements = [*self.disagreements, seen.disagreement][-MAX_KEPT:]

    def measured(self) -> Measured:
        """The numbers that are judged."""
        return Measured(
            active=self._side("active"),
            candidate=self._side("candidate"),
            compared=len(self.disagreements),
            disagreement=float(np.mean(self.disagreements)) if self.disagreements else None,
        )

    def _side(self, who: str) -> Side:
        times = self.seconds[who]
        p50, p95 = np.percentile(times, [50, 95]) * 1000 if times else (None, None)
        return Side(
            requests=self.requests[who],
            errors=self.errors[who],
            p50_ms=None if p50 is None else round(float(p50), 1),
            p95_ms=None if p95 is None else round(float(p95), 1),
        )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What follows from the measurements of a step."""

    decision: Literal["wait", "pass", "refuse"]
    detail: str


def judge(measured: Measured, *, elapsed: float, comparing: bool, limits: RolloutConfig) -> Verdict:
    """Judge one step.

    Args:
        measured: both versions in this step.
        elapsed: seconds since it began.
        comparing: the step must also have compared `step_samples` windows: so in the shadow. In the canary
            fewer are enough, since only a fraction of the windows is compared there.
        limits: the thresholds.
    """
    if detail := fault(measured, comparing=comparing, limits=limits):
        return Verdict(decision="refuse", detail=detail)
    enough = _enough(measured, limits)
    compared_enough = measured.compared >= limits.step_samples
    if enough and (compared_enough or not comparing) and elapsed >= limits.step_seconds:
        return Verdict(decision="pass", detail=summary(measured))
    if elapsed > limits.step_timeout_s:
        requests = measured.candidate.requests
        detail = f"{requests} predictions in {elapsed:.0f} s (step_samples {limits.step_samples})"
        return Verdict(decision="refuse", detail=detail)
    return Verdict(decision="wait", detail=summary(measured))


def judge_bake(measured: Measured, *, elapsed: float, limits: RolloutConfig) -> Verdict:
    """Judge a version that is already serving: "pass" when there is enough to start measuring again.

    So a version that degrades late is not judged by its good first minutes. Windows that nobody sends are no fault
    here: it had enough of them before. Nor is a single error, our choice: the version before has answered it.

    Args:
        measured: both versions since measuring started.
        elapsed: seconds since then.
        limits: the thresholds.
    """
    if detail := fault(measured, comparing=False, limits=limits, forgiven=1):
        return Verdict(decision="refuse", detail=detail)
    over = elapsed > limits.step_timeout_s or (_enough(measured, limits) and elapsed >= limits.step_seconds)
    return Verdict(decision="pass" if over else "wait", detail=summary(measured))


def fault(measured: Measured, *, comparing: bool, limits: RolloutConfig, forgiven: int = 0) -> str | None:
    """What the new version does badly; None if nothing.

    Args:
        measured: both versions.
        comparing: as in `judge`.
        limits: the thresholds.
        forgiven: so many errors are allowed whatever the rate.
    """
    active, candidate = measured.active, measured.candidate
    allowed = max(forgiven, limits.max_error_rate * max(candidate.requests, limits.step_samples))
    if candidate.errors > allowed:
        return (
            f"{candidate.errors} errors in {candidate.requests} predictions "
            f"(max_error_rate {limits.max_error_rate:g})"
        )
    enough = _enough(measured, limits)
    if enough and (slow := _too_slow(active, candidate, limits)):
        return slow
    comparable = measured.compared >= limits.step_samples or (enough and not comparing)
    if comparable and (measured.disagreement or 0.0) > limits.max_disagreement:
        return (
            f"masks differ by {measured.disagreement:.2f} (1 - IoU) over {measured.compared} windows "
            f"(max_disagreement {limits.max_disagreement:g})"
        )
    return None


def _enough(measured: Measured, limits: RolloutConfig) -> bool:
    return min(measured.active.requests, measured.candidate.requests) >= limits.step_samples


def disagreement(left: np.ndarray, right: np.ndarray) -> float:
    """1 - IoU of two predictions for the same frames, over all frames together; 0 where both are empty.

    Args:
        left: [T, H, W] class of each pixel, 0 is background.
        right: as `left`.
    """
    either = (left > 0) | (right > 0)
    both = either & (left == right)
    return 1.0 - float(both.sum()) / float(either.sum()) if either.any() else 0.0


def _too_slow(active: Side, candidate: Side, limits: RolloutConfig) -> str | None:
    few = min(active.requests, candidate.requests) < TAIL_SAMPLES
    name, served, tried = (
        ("median", active.p50_ms, candidate.p50_ms) if few else ("p95", active.p95_ms, candidate.p95_ms)
    )
    if served is None or tried is None:
        return None
    if tried <= served * limits.max_latency_ratio + limits.latency_slack_ms:
        return None
    return (
        f"{name} latency {tried:.0f} ms against {served:.0f} ms of the served version "
        f"(max_latency_ratio {limits.max_latency_ratio:g})"
    )


def summary(measured: Measured) -> str:
    """The numbers that were judged, in one line."""
    candidate, active = measured.candidate, measured.active
    parts = [f"{candidate.requests} predictions", f"{candidate.errors} errors"]
    if candidate.p95_ms is not None and active.p95_ms is not None:
        parts.append(f"p95 {candidate.p95_ms:.0f} ms against {active.p95_ms:.0f} ms")
    if measured.disagreement is not None:
        parts.append(f"disagreement {measured.disagreement:.2f}")
    return ", ".join(parts)
