"""Chooses the version that processes a request, by the rollout's document, which every ingress follows
independently."""

import random
from dataclasses import dataclass
from typing import Literal, Protocol

from sdavs_serve.errors import NoModel, RequestError
from sdavs_serve.rollout.state import Release, RolloutState, SlotName

PIN_HEADER = "x-model-version"


@dataclass(frozen=True, kw_only=True)
class Route:
    """The version of one request, chosen once and kept until its end."""

    slot: SlotName
    release: Release
    alias: str | None
    """The alias, if it points to this version now."""
    who: Literal["active", "candidate", "pinned"]
    stage: int
    """Stage of the rollout that observations of this request count for."""
    mirror: Release | None
    """The version that some windows are also sent to; it is in the other slot."""
    mirror_fraction: float
    """Fraction of the windows that are."""

    @property
    def mirror_slot(self) -> SlotName:
        """Where `mirror` is."""
        return "b" if self.slot == "a" else "a"


class Followed(Protocol):
    """What follows the rollout's document, such as `store.Watcher`."""

    @property
    def state(self) -> RolloutState: ...
    @property
    def alive(self) -> bool: ...


class Router:
    """Routes by the newest document."""

    def __init__(self, watcher: Followed) -> None:
        """
        Args:
            watcher: holds the newest document.
        """
        self._watcher = watcher

    @property
    def alive(self) -> bool:
        """Whether the document is still followed."""
        return self._watcher.alive

    @property
    def state(self) -> RolloutState:
        """The rollout's document."""
        return self._watcher.state

    def served(self) -> Route:
        """The version that the endpoint serves, whichever version processes a single request.

        Raises:
            NoModel: 503, no version serves yet.
        """
        state = self.state
        if state.active is None:
            raise NoModel(why_none_serves(state))
        return _route(state, state.active, "active", mirror=None)

    def choose(self, *, pinned: int | None = None, only_active: bool = False) -> Route:
        """Choose a version.

        Args:
            pinned: the version that the client insists on.
            only_active: not the version that is being tried; it has already failed this request.

        Raises:
            RequestError: 409, the pinned version is not loaded.
            NoModel: 503, no version serves yet.
        """
        state = self.state
        if pinned is not None:
            return _pinned(state, pinned)
        if state.active is None:
            raise NoModel(why_none_serves(state))
        if state.tried is None or state.trusted is None:
            return _route(state, state.active, "active", mirror=None)
        tried, trusted = state.slots[state.tried], state.slots[state.trusted]
        if not only_active and random.random() < state.weight:
            return _route(state, state.tried, "candidate", mirror=trusted)
        return _route(state, state.trusted, "active", mirror=tried)

    def is_trusted(self, route: Route) -> bool:
        """Whether the candidate of a route still gets traffic."""
        state = self.state
        return state.ready and state.stage == route.stage


def _pinned(state: RolloutState, version: int) -> Route:
    slot = state.slot_of(version)
    if slot is None:
        loaded = [
            release.version for release in state.slots.values() if release and state.slot_of(release.version)
        ]
        held = ", ".join(str(number) for number in sorted(loaded)) or "none"
        raise RequestError(
            status=409,
            kind="not_loaded",
            detail=f"version {version} is not loaded; loaded: {held}",
            field=PIN_HEADER,
        )
    return _route(state, slot, "pinned", mirror=None)


def _route(
    state: RolloutState,
    slot: SlotName,
    who: Literal["active", "candidate", "pinned"],
    *,
    mirror: Release | None,
) -> Route:
    release = state.slots[slot]
    assert release
    return Route(
        slot=slot,
        release=release,
        alias=state.alias if release.version == state.wanted else None,
        who=who,
        stage=state.stage,
        mirror=mirror if state.ready else None,
        mirror_fraction=state.mirror,
    )


def why_none_serves(state: RolloutState) -> str:
    """One sentence about a document in which no version serves."""
    if state.refused:
        return f"version {state.refused.version} was refused at {state.refused.gate}: {state.refused.reason}"
    if state.candidate:
        return f"version {state.candidate.version} is being prepared: {state.phase}"
    if state.trouble:
        return f"the model cannot be looked up: {state.trouble}"
    return "no version has been found yet"
