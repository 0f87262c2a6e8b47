"""The rollout as one document: the content of each slot, the served version, and the progress of a change.

Written by the controller, read by every replica. GET /v1/rollout returns it.
"""

from typing import Literal

from pydantic import Field

from sdavs_model.architectures import DEFAULT_ARCHITECTURE
from sdavs_serve.schema import Answer, ModelInfo

SlotName = Literal["a", "b"]
SLOTS: tuple[SlotName, SlotName] = ("a", "b")

Phase = Literal["idle", "verify", "load", "golden", "shadow", "canary", "bake"]
"""idle: no rollout is under way. A candidate passes through the others in this order; in the bake it serves already."""

HISTORY = 50
"""Events kept."""


class Target(Answer):
    """A version in the registry, by number and not by alias: it means the same weights everywhere."""

    name: str
    version: int
    run_id: str
    sha256: str
    """Digest of the weights."""
    manifest_sha256: str
    """Digest of `sdavs.json`."""

    @property
    def identity(self) -> str:
        """Identifies it: two versions may have the same files, and two registries the same numbers."""
        return f"{self.name}/{self.version}@{self.manifest_sha256}"


class Release(Target):
    """A verified version, with data from its card."""

    data_digest: str
    """Digest of the data set it was trained on; empty if not recorded."""
    architecture: str = DEFAULT_ARCHITECTURE
    """States of earlier versions name none."""
    backbone: str
    image_size: int
    num_frames: int
    """Frames that it processes at once."""
    classes: list[str]
    """Names of the mask values, background first."""
    metrics: dict
    """Its scores from before it was registered."""

    def info(self, alias: str | None) -> ModelInfo:
        """The model's entry in a response."""
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
    """digest, signature, load, golden, shadow, canary, bake or stability."""
    reason: str


class GateResult(Answer):
    """A gate that the candidate has passed, or the one that refused it."""

    gate: str
    passed: bool
    detail: str
    at: float
    """Unix time."""


class Refusal(Answer):
    """The refused version that the alias points to, and why it was refused."""

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
    """One of the two versions in the current step."""

    requests: int = 0
    """Windows sent to it."""
    errors: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    """95th percentile of the time for one window."""


class Measured(Answer):
    """Both versions in the current step."""

    active: Side = Side()
    """The version that served before the rollout."""
    candidate: Side = Side()
    """The new version, also in the bake, when it serves already."""
    compared: int = 0
    """Windows that both versions processed."""
    disagreement: float | None = None
    """Mean of 1 - IoU of their masks."""


class TagWrite(Answer):
    """Tags to be written to a version in MLflow."""

    name: str
    version: int
    tags: dict[str, str]


class RolloutState(Answer):
    """The response of GET /v1/rollout, and all that a restarted controller needs.

    `slots` assigns a version to each of the two model deployments. `active` answers requests. During shadow and canary
    the candidate is in the other slot; otherwise that slot keeps the version that served before, loaded. In the bake
    the version in the active slot is still compared with the one before.
    """

    revision: int = 0
    """Grows by one with every change; the store refuses a second writer of the same number."""
    source: str = ""
    """Digest of registry and model address, so that another deployment's document is not mistaken for this one's."""
    alias: str | None = None
    """The alias that is followed; null for a fixed version."""
    wanted: int | None = None
    """Version that the alias points to."""
    active: SlotName | None = None
    """Slot that serves requests; null before the first version has passed."""
    slots: dict[SlotName, Release | None] = Field(default={"a": None, "b": None})
    """Version assigned to each slot."""
    rollout: int = 0
    """Number of the rollout, counted from 1."""
    phase: Phase = "idle"
    since: float = 0.0
    """Unix time at which the phase, or its step, began."""
    bake_until: float | None = None
    """Unix time at which the bake ends; null outside of it."""
    candidate: Target | None = None
    """The version that is being rolled out."""
    step: int = 0
    """Canary step, from 0."""
    stage: int = 0
    """Grows whenever measuring restarts; observations carry it."""
    ready: bool = False
    """The candidate is loaded on all its replicas and may get traffic. In the bake: the previous version is loaded."""
    mirror: float = 0.0
    """Fraction of the windows that go to both versions."""
    weight: float = 0.0
    """Fraction of the requests that the candidate serves; in the bake, that the new version serves."""
    restarts: int = 0
    """How often replicas of the candidate were lost."""
    gates: tuple[GateResult, ...] = ()
    """Of the current rollout, or of the last one."""
    measured: Measured = Measured()
    """Of the current step."""
    refused: Refusal | None = None
    """Set while the alias points to a version that failed."""
    live: bool = False
    """A replica of the served version is alive and has it loaded."""
    trouble: str | None = None
    """Why the alias cannot be followed at the moment; null if it can."""
    nothing_served: bool = False
    """No version serves, and according to MLflow's tags none ever has."""
    rollbacks: int = 0
    """How often the bake ended with the previous version serving again."""
    given_up: tuple[int, ...] = ()
    """Versions that were refused while no version served."""
    history: tuple[Event, ...] = ()
    """Newest last."""
    outbox: tuple[TagWrite, ...] = ()
    """Delivery queue: tags that MLflow does not have yet."""

    @property
    def other(self) -> SlotName:
        """The slot that does not serve requests."""
        return "b" if self.active == "a" else "a"

    @property
    def tried(self) -> SlotName | None:
        """The slot whose version is being compared and serves `weight` of the requests; None if there is none."""
        if not self.ready:
            return None
        return self.active if self.phase == "bake" else self.other

    @property
    def trusted(self) -> SlotName | None:
        """The slot that serves the other requests, and those on which the compared version fails."""
        return self.other if self.tried and self.tried == self.active else self.active

    @property
    def served(self) -> Release | None:
        """The version that serves requests."""
        return self.slots[self.active] if self.active else None

    def slot_of(self, version: int) -> SlotName | None:
        """The slot of a version that clients may request: it serves, served before, or is in shadow or canary."""
        for slot in SLOTS:
            release = self.slots[slot]
            tried = slot == self.other and self.candidate is not None
            if release and release.version == version and (not tried or self.ready):
                return slot
        return None
