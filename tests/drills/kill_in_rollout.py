"""Kill the controller, a replica of the candidate or of the served version in every moment of a rollout, under load.

    .venv/bin/python tests/drills/kill_in_rollout.py
    .venv/bin/python tests/drills/kill_in_rollout.py --moments canary switch --victims served

Starts Ray, MLflow and an endpoint of its own. Each line is one rollout: who was killed when, and what came of it. On a
busy machine a moment of milliseconds may be over before it was seen; then the next rollout takes its place.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in ("", "serve"))

from moments import Missed, deployment_of, promote_soon, reach, replaced
from stack import Stack, kill, running_stack
from traffic import traffic
from uploads import write_video
from waiting import wait_until

MOMENTS = ("verify", "load", "warm-up", "golden", "shadow", "canary", "switch")
"""The phases in their order; the warm-up is the end of the load, and the switch is the first moment after it."""

VICTIMS = ("controller", "candidate", "served")


def both_answer(stack: Stack, video: bytes) -> None:
    """Wait until the served version and the one before answer, each by a replica of its own."""
    versions = [release.version for release in stack.state().slots.values() if release]

    def ok(version: int) -> bool:
        return stack.post(video=video, headers={"X-Model-Version": str(version)}).status_code == 200

    wait_until(lambda: all(map(ok, versions)), what=f"answers of {versions}")


def one_rollout(stack: Stack, video: bytes, version: int, moment: str, victim: str) -> bool:
    """Roll `version` out, kill, wait for the end, print a line; whether no request failed."""
    before = stack.state()
    processes = {name: stack.processes(name) for name in ("rollout", "model-a", "model-b")}
    with traffic(stack, video) as answers:
        promote_soon(stack, version)
        state = reach(stack, moment, version)
        deployment = deployment_of(victim, state)
        kill(processes[deployment])
        killed_at = time.monotonic()
        stack.until(lambda state: state.phase == "idle" and state.served.version == version)
        took = time.monotonic() - killed_at
        replaced(stack, deployment, processes[deployment])
        both_answer(stack, video)
    failed = answers.statuses.total() - answers.statuses[200]
    versions = " and ".join(sorted(answers.masks, key=int))
    largest = max(answers.deviations.values())
    print(
        f"{moment:<9} {victim:<11} version {version} for {before.served.version} {took:5.1f} s later; "
        f"{answers.statuses.total():4d} answers by {versions}, {failed} failed, strays {largest:.4f}",
        flush=True,
    )
    return failed == 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--moments", nargs="+", choices=MOMENTS, default=MOMENTS, help="default: all")
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=VICTIMS, help="default: all")
    flags = parser.parse_args()
    with running_stack() as stack:
        # Three in turn: the version before is always warm, and would be switched to at once.
        versions = itertools.cycle(
            [*(stack.register(seed=1, marked=0.45) for _ in range(2)), stack.serving()]
        )
        waiting, fine = list(itertools.product(flags.moments, flags.victims)), []
        while waiting:
            moment, victim = waiting[0]
            try:
                fine.append(one_rollout(stack, write_video(2), next(versions), moment, victim))
            except Missed as missed:
                print(f"missed: {missed}", flush=True)
            else:
                waiting.pop(0)
    print(f"{sum(fine)} of {len(fine)} rollouts without a failed request")
    sys.exit(0 if all(fine) else 1)


if __name__ == "__main__":
    main()
