"""Rollouts that go wrong in every way, under load: processes killed, candidates that hang, candidates that lie.

    .venv/bin/python tests/drills/kill_in_rollout.py
    .venv/bin/python tests/drills/kill_in_rollout.py --rollouts 6
    .venv/bin/python tests/drills/kill_in_rollout.py --kinds kill --moments canary switch --victims served

Starts Ray, MLflow and an endpoint of its own, and prints a table with a line for each rollout:

- kill: the controller, a replica of the candidate or one of the served version is killed in a phase; the rollout ends
  with the new version in service.
- hang: the candidate's replica never answers again from a phase on (SIGSTOP); the candidate is refused, or serves with
  another replica if Serve replaces the first one before that.
- lie: the candidate is healthy and wrong: its weights are not the registered ones, it does not reproduce its golden
  clips, or it marks nothing; it is refused.

No request may fail, and no response may be another version's than it says. On a busy machine a moment of milliseconds
may be over before it was seen; then the next rollout is tried in its place.
"""

import argparse
import itertools
import math
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in ("", "serve"))

from moments import Missed, deployment_of, promote_soon, reach, replaced
from sdavs_serve.rollout.state import RolloutState
from spoiled import corrupt, spoil_golden
from stack import QUICK, Stack, kill, running_stack
from traffic import Answers, traffic
from uploads import write_video
from waiting import patience, wait_until

MOMENTS = ("verify", "load", "warm-up", "golden", "shadow", "canary", "switch")
"""The phases in their order; the warm-up is the end of the load, and the switch is the first moment after it."""

VICTIMS = ("controller", "candidate", "served")

HANGS = ("shadow", "canary", "switch")
"""Where a candidate hangs: before, nobody has asked it for anything yet."""

LIES = {"weights": "digest", "golden": "golden", "masks": "shadow"}
"""What is wrong with a candidate, and the gate that refuses it."""

KINDS = ("kill", "hang", "lie")

CALL_TIMEOUT_S = 4.0
"""How long a window may take a candidate, on the reference machine. On one so slow that it may take longer than ten
seconds, a replica that hangs counts as lost before its calls count as errors, and the candidate serves with another."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One rollout."""

    kind: str
    moment: str
    """Phase; of a lie, what is wrong."""
    victim: str


def cases(flags: argparse.Namespace) -> list[Case]:
    """The rollouts, all kinds in turn, so that the first few have some of each."""
    kills = [
        Case(kind="kill", moment=moment, victim=victim)
        for moment, victim in itertools.product(flags.moments, flags.victims)
    ]
    hangs = [
        Case(kind="hang", moment=moment, victim="served" if moment == "switch" else "candidate")
        for moment in HANGS
    ]
    lies = [Case(kind="lie", moment=what, victim="candidate") for what in LIES]
    by_kind = {"kill": kills, "hang": hangs, "lie": lies}
    turns = itertools.zip_longest(*(by_kind[kind] for kind in flags.kinds))
    return [case for turn in turns for case in turn if case][: flags.rollouts]


class Drill:
    """The endpoint, and the versions that are rolled out."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._video = write_video(2)
        self._good = [
            stack.register(marked=0.95),
            stack.register(marked=0.95),
            stack.serving(),
        ]

    def run(self, case: Case) -> bool:
        """One rollout; prints its line. Whether all was as it should be. Raises Missed."""
        version = self._liar(case.moment) if case.kind == "lie" else self._not_loaded()
        with traffic(self._stack, self._video) as answers:
            if case.kind == "kill":
                took, end = self._kill(case, version)
            elif case.kind == "hang":
                took, end = self._hang(case, version)
            else:
                took, end = self._lie(case, version)
            self._both_answer()
        num_failed = answers.statuses.total() - answers.statuses[200]
        largest = max(answers.deviations.values())
        print(
            f"{case.kind:<5} {case.moment:<8} {case.victim:<11} {end:<21} {took:6.1f} "
            f"{answers.statuses.total():8d} {_by_version(answers):<12} {num_failed:6d} {largest:7.4f}",
            flush=True,
        )
        return num_failed == 0

    def _kill(self, case: Case, version: int) -> tuple[float, str]:
        processes = {name: self._stack.processes(name) for name in ("rollout", "model-a", "model-b")}
        promote_soon(self._stack, version)
        deployment = deployment_of(case.victim, reach(self._stack, case.moment, version))
        kill(processes[deployment])
        began = time.monotonic()
        self._stack.until(lambda state: state.phase == "idle" and state.served.version == version)
        took = time.monotonic() - began
        replaced(self._stack, deployment, processes[deployment])
        return took, f"{version} serves"

    def _hang(self, case: Case, version: int) -> tuple[float, str]:
        promote_soon(self._stack, version)
        deployment = deployment_of(case.victim, reach(self._stack, case.moment, version))
        stopped = self._stack.processes(deployment)
        kill(stopped, signal.SIGSTOP)
        try:
            took, end = self._ended(version)
        finally:
            kill(stopped)  # if the rollout was over before Serve did
        replaced(self._stack, deployment, stopped)
        return took, end

    def _lie(self, case: Case, version: int) -> tuple[float, str]:
        promote_soon(self._stack, version)
        took, end = self._ended(version)
        assert end.endswith(LIES[case.moment]), f"{case}: {end}"
        return took, end

    def _ended(self, version: int) -> tuple[float, str]:
        """Wait until the version is refused, or serves; then the alias points to the one that serves."""
        began = time.monotonic()

        def is_over(state: RolloutState) -> bool:
            refused = state.refused is not None and state.refused.version == version
            serves = state.served is not None and state.served.version == version
            return state.phase == "idle" and (refused or serves)

        state = self._stack.until(is_over, seconds=180)
        took = time.monotonic() - began
        assert state.served
        if state.refused is None:
            return took, f"{version} serves"
        self._stack.promote(state.served.version)
        self._stack.until(lambda state: state.refused is None)
        self._forget_refusal(version)
        return took, f"{version} refused: {state.refused.gate}"

    def _forget_refusal(self, version: int) -> None:
        """Let a good version be rolled out again."""
        self._stack.until(lambda state: not state.outbox)
        self._stack.client.delete_model_version_tag("sdavs", str(version), "rollout")

    def _not_loaded(self) -> int:
        """A good version: the one before is still loaded, and would be switched to at once."""
        loaded = [release.version for release in self._stack.state().slots.values() if release]
        return next(version for version in self._good if version not in loaded)

    def _liar(self, what: str) -> int:
        if what == "weights":
            return corrupt(self._stack)
        if what == "golden":
            return self._stack.register(spoil=spoil_golden)
        return self._stack.register(seed=3, shift=-50)

    def _both_answer(self) -> None:
        """Wait until the served version, and the one before if it is loaded, answer, each by its own replica."""
        versions = [release.version for release in self._stack.state().slots.values() if release]

        def ok(version: int) -> bool:
            headers = {"X-Model-Version": str(version)}
            return self._stack.post(video=self._video, headers=headers).status_code == 200

        wait_until(lambda: all(map(ok, versions)), what=f"answers of {versions}")


def _by_version(answers: Answers) -> str:
    return ", ".join(sorted(answers.masks, key=int))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="default: all")
    parser.add_argument(
        "--moments", nargs="+", choices=MOMENTS, default=MOMENTS, help="of kills; default: all"
    )
    parser.add_argument(
        "--victims", nargs="+", choices=VICTIMS, default=VICTIMS, help="of kills; default: all"
    )
    parser.add_argument("--rollouts", type=int, help="only so many, the kinds in turn (default: all)")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no rollout later (default: run all)"
    )
    flags = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started ends, too
    deadline = time.monotonic() + 60 * flags.minutes
    rollout = QUICK.model_copy(update={"call_timeout_s": patience(CALL_TIMEOUT_S)})
    with running_stack(rollout=rollout) as stack:
        drill, waiting, fine = Drill(stack), cases(flags), []
        print("kind  phase    victim      end                   seconds answers of versions  failed  strays")
        while waiting and time.monotonic() < deadline:
            try:
                fine.append(drill.run(waiting[0]))
            except Missed as missed:
                print(f"missed: {missed}", file=sys.stderr)
            else:
                waiting.pop(0)
    print(f"{sum(fine)} of {len(fine)} rollouts without a failed request; {len(waiting)} not run in time")
    sys.exit(0 if all(fine) and not waiting else 1)


if __name__ == "__main__":
    main()
