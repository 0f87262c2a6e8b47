"""Storage of the rollout's document and of the replicas' reports: Ray's key-value store, which Serve uses, too.

Our choice among four: a file needs a disk that all nodes share. Tags in MLflow would stop every replica from
starting while MLflow is down, and MLflow is no part of answering a request. An actor loses it when it is killed.
The key-value store outlives every process but Ray's head, and also the head where that is made fault-tolerant (KubeRay:
`gcsFaultToleranceOptions`). If it is lost, the next deployment starts from the registry.

Writers are fenced: revision N + 1 can be written once, so of two controllers (one of them cut off and not yet
dead) only one changes the document, and the other one reads it again.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

import ray
from pydantic import BaseModel, ConfigDict
from sdavs_platform.ray_internals import kv_delete, kv_get, kv_keys, kv_put

from sdavs_serve.rollout.rules import SlotReport
from sdavs_serve.rollout.state import SLOTS, RolloutState, SlotName

logger = logging.getLogger("ray.serve")

STATE = "rollout/"
REPORTS = "slot/"

WATCH_S = 0.25
"""How often replicas read the document. They follow it, and not the controller."""

SILENT_S = 10.0
"""A replica without a report for so long is lost. Replicas report every `WATCH_S`, when they get to run."""

SERVE_NAMESPACE = "serve"
"""Ray's namespace in which Serve keeps its actors."""


class ReplicaReport(BaseModel):
    """What one replica of a slot reports about itself."""

    model_config = ConfigDict(frozen=True)

    beat: int
    """Counts reports. The reader times the changes by its own clock, because nodes' clocks differ."""
    wants: str | None
    """`Target.identity` of the version assigned to it."""
    holds: str | None
    """`Target.identity` of the version that it has loaded and warmed up."""
    failed: str | None = None
    """Why it could not load the assigned version."""


def read_state() -> RolloutState:
    """The newest document; an empty one where there is none."""
    for _ in range(3):  # the newest may be removed for a newer one between the two calls
        keys = kv_keys(STATE)
        if not keys:
            return RolloutState()
        if content := kv_get(max(keys)):
            return RolloutState.model_validate_json(content)
    raise RuntimeError("the rollout's document changes faster than it can be read")


def write_state(state: RolloutState) -> RolloutState | None:
    """Write the successor of the document that `state` was made from; None if another controller was faster."""
    state = state.model_copy(update={"revision": state.revision + 1})
    key = _key(state.revision)
    existed = kv_put(key, state.model_dump_json(), overwrite=False)
    if existed:
        return None
    for old in kv_keys(STATE):
        # The one before stays for readers that have listed the keys and not read yet.
        if old < _key(state.revision - 1):
            kv_delete(old)
    return state


def write_report(slot: SlotName, actor: str, report: ReplicaReport) -> None:
    """Report to the controller; a replica is identified by the name of its actor."""
    kv_put(f"{REPORTS}{slot}/{actor}", report.model_dump_json())


def summary_of(identity: str | None, replicas: Sequence[ReplicaReport]) -> SlotReport:
    """The reports of a slot's live replicas together.

    A replica that could not load what others have loaded does not count against the version: it is left out here,
    and Serve replaces it (`Predictor.check_health`). The version has failed when all that tried have failed.

    Args:
        identity: `Target.identity` of the version assigned to the slot; None if there is none.
        replicas: their reports.
    """
    failed = [one.failed for one in replicas if one.failed and one.wants == identity]
    able = [one for one in replicas if not (one.failed and one.wants == identity)]
    holds = {one.holds for one in able}
    return SlotReport(
        some_loaded=identity is not None and identity in holds,
        loaded=holds.pop() if len(holds) == 1 else None,
        failed=failed[0] if failed and not able else None,
    )


class ReportReader:
    """Reads the reports of all live replicas."""

    def __init__(self) -> None:
        self._beats: dict[str, int] = {}
        self._heard: dict[str, float] = {}

    def read(self, state: RolloutState) -> dict[SlotName, SlotReport]:
        """What the replicas of each slot report about the versions assigned by the document. Blocking."""
        return {slot: self._summary(slot, state) for slot in SLOTS}

    def _summary(self, slot: SlotName, state: RolloutState) -> SlotReport:
        wanted = state.slots[slot]
        identity = wanted.identity if wanted else None
        replicas = self._live(slot)
        return summary_of(identity, replicas)

    def _live(self, slot: SlotName) -> list[ReplicaReport]:
        now, prefix, live = time.monotonic(), f"{REPORTS}{slot}/", []
        for key in kv_keys(prefix):
            content = kv_get(key)
            # Ray knows at once that a process has ended; one that hangs or is cut off shows only by its silence.
            if content is None or not _exists(key.removeprefix(prefix)):
                kv_delete(key)
                continue
            report = ReplicaReport.model_validate_json(content)
            if self._beats.get(key) != report.beat:
                self._beats[key], self._heard[key] = report.beat, now
            if now - self._heard[key] < SILENT_S:
                live.append(report)
        return live


def _exists(actor: str) -> bool:
    try:
        ray.get_actor(actor, namespace=SERVE_NAMESPACE)
    except ValueError:
        return False
    return True


class Watcher:
    """Follows the document in a separate thread, so that a busy event loop does not delay it."""

    def __init__(self, on_read: Callable[[RolloutState], None] | None = None) -> None:
        """
        Args:
            on_read: called in the watching thread with each document read, changed or not.
        """
        self.state = read_state()
        self._on_read = on_read
        self._thread = threading.Thread(target=self._run, name="rollout watcher", daemon=True)

    def start(self) -> None:
        """Start following."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while True:
            try:
                self.state = read_state()
                if self._on_read:
                    self._on_read(self.state)
            except Exception as error:
                # Ray's head may be restarting; the last document still holds.
                logger.warning("cannot read the rollout's document: %s", error)
            time.sleep(WATCH_S)


def _key(revision: int) -> str:
    return f"{STATE}{revision:012d}"
