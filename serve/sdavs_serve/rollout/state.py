"""The rollout as one document: what each slot holds, who answers, where a change stands. Written by the controller."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sdavs_serve.schema import Answer, ModelInfo

SlotName = Literal["a", "b"]
SLOTS: tuple[SlotName, SlotName] = ("a", "b")

Phase = Literal["idle", "verify", "load", "golden", "shadow", "canary"]
"""idle: nothing changes. The others are what a candidate goes through, in this order."""

HISTORY = 50
"""Events kept."""


class Target(Answer):
    """A version as the registry names it. A number and not an alias: it means the same weights everywhere."""

    name: str
    version: int
    run_id: str
    sha256: str
    """Digest of the weights."""
    manifest_sha256: str
    """Digest of `sdavs.json`."""

    @property
    def identity(self) -> str:
        """Tells it from every other one: two versions may have the same files, two registries the same numbers."""
        return f"{self.name}/{self.version}@{self.manifest_sha256}"


class Release(Target):
    """A verified version, with what its own card says of it."""

    data_digest: str
    """Digest of the data set it was trained on; empty if not recorded."""
    backbone: str
    image_size: int
    num_frames: int
    """Frames that it sees at once."""
    classes: list[str]
    """Names of the mask values, background first."""
    metrics: dict
    """What it scored before it was registered."""

    def info(self, alias: str | None) -> ModelInfo:
        """What an answer says of the model that gave it."""
        return ModelInfo(
            name=self.name,
            version=str(self.version),
            alias=alias,
            run_id=self.run_id,
            data_digest=self.data_digest,
            sha256=self.sha256,
        )


class Failure(Answer):
    """Why a version did not pass."""

    gate: str
    """digest, signature, load, golden, shadow, canary or stability."""
    reason: str


class GateResult(Answer):
    """One gate that the candidate has passed, or the one that stopped it."""

    gate: str
    passed: bool
    detail: str
    at: float
    """Unix time."""


class Refusal(Answer):
    """The version that the alias points to, and why it does not serve."""

    version: int
    gate: str
    reason: str
    at: float


class Event(Answer):
    """One line of the history."""

    at: float
    """Unix time."""
    version: int | None
    what: str


class Side(Answer):
    """What one of the two versions did in the current step."""

    requests: int = 0
    """Windows that it answered, or should have."""
    errors: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    """Time of one window, 95th percentile."""


class Measured(Answer):
    """Both versions in the current step."""

    active: Side = Side()
    candidate: Side = Side()
    compared: int = 0
    """Windows that both answered."""
    disagreement: float | None = None
    """Mean of 1 - IoU of their masks."""


class TagWrite(Answer):
    """Tags on their way to a version in MLflow."""

    name: str
    version: int
    tags: dict[str, str]


class RolloutState(Answer):
    """The answer of GET /v1/rollout, and what survives a killed controller.

    Slots holds what each of the two model deployments has to hold. `active` answers; in the shadow and the
    canary `candidate` is in the other slot, in between that slot keeps the version that served before, warm.
    """

    revision: int = 0
    """Grows by one with every change; the store refuses a second writer of the same number."""
    source: str = ""
    """Digest of registry and model address, so that another deployment's state is not taken for this one's."""
    alias: str | None = None
    """The alias that is followed; null for a fixed version."""
    wanted: int | None = None
    """Version that the alias points to."""
    active: SlotName | None = None
    """Slot that answers; null before the first version has passed."""
    slots: dict[SlotName, Release | None] = Field(default={"a": None, "b": None})
    """What each slot has to hold."""
    rollout: int = 0
    """Number of the rollout, counted from 1."""
    phase: Phase = "idle"
    since: float = 0.0
    """Unix time at which the phase, or its step, began."""
    candidate: Target | None = None
    """The version that is being tried."""
    step: int = 0
    """Canary step, from 0."""
    stage: int = 0
    """Grows whenever measuring begins anew; measurements carry it."""
    ready: bool = False
    """The candidate is loaded everywhere, and may be given traffic."""
    mirror: float = 0.0
    """Share of the windows that both versions answer."""
    weight: float = 0.0
    """Share of the requests that the candidate answers."""
    restarts: int = 0
    """How often the candidate was lost."""
    gates: tuple[GateResult, ...] = ()
    """Of the current rollout, or of the last one."""
    measured: Measured = Measured()
    """Of the current step."""
    refused: Refusal | None = None
    """Set while the alias points to a version that failed."""
    history: tuple[Event, ...] = ()
    """Newest last."""
    outbox: tuple[TagWrite, ...] = ()
    """Tags that MLflow has not got yet."""

    @property
    def other(self) -> SlotName:
        """The slot that does not answer."""
        return "b" if self.active == "a" else "a"

    @property
    def served(self) -> Release | None:
        """The version that answers."""
        return self.slots[self.active] if self.active else None

    def slot_of(self, version: int) -> SlotName | None:
        """The slot whose version may be asked for by number: it serves, has served, or is in shadow or canary."""
        for slot in SLOTS:
            release = self.slots[slot]
            tried = slot == self.other and self.candidate is not None
            if release and release.version == version and (not tried or self.ready):
                return slot
        return None
