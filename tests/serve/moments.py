"""Be there in a certain moment of a rollout, and know whom to kill in it."""

import threading
import time
from collections.abc import Sequence

from sdavs_serve.rollout.state import RolloutState
from stack import Stack
from waiting import wait_until

WARM_UP_S = 0.3
"""After the load has begun; the small models of the tests are in their warm-up then."""


def promote_soon(stack: Stack, version: int) -> None:
    """Promote without waiting for MLflow's response: the verification may be over before it comes."""
    threading.Thread(target=stack.promote, args=(version,)).start()


class Missed(Exception):
    """The moment was over before it was seen."""


def reach(stack: Stack, moment: str, version: int) -> RolloutState:
    """The document as soon as the rollout of `version` is there."""
    phase = {"warm-up": "load", "switch": "bake"}.get(moment, moment)

    def found() -> RolloutState | None:
        state = stack.document()
        tried = state.served if moment == "switch" else state.candidate
        if tried and tried.version == version and state.phase == phase:
            return state
        if state.phase == "idle" and state.served and state.served.version == version:
            raise Missed(f"{moment} of version {version}")
        return None

    state = wait_until(found, what=moment, every=0.005, details=lambda: stack.document())
    time.sleep(WARM_UP_S if moment == "warm-up" else 0)
    return state


def deployment_of(victim: str, state: RolloutState) -> str:
    """Who that is now; after the switch the candidate's slot is that of the version before."""
    return {"controller": "rollout", "candidate": f"model-{state.other}", "served": f"model-{state.active}"}[
        victim
    ]


def replaced(stack: Stack, deployment: str, gone: Sequence[int]) -> list[int]:
    """Wait until Serve has started another process in the place of those that are gone."""
    return wait_until(
        lambda: [number for number in stack.processes(deployment) if number not in gone],
        what=f"{deployment} to come back",
    )
