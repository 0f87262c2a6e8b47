"""Copies of the model that come with the load and go with it: a timeline from a real endpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx
from ray import serve
from sdavs_platform.serve_config import ServeConfig

from sdavs_serve.app import APPLICATION, MODEL
from sdavs_serve.load_test import Row, running, under_load

LOOK_S = 0.5

SHRINK_S = 180.0
"""Longest wait for the copies to go again; Serve averages the load over half a minute before it judges."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A change."""

    at_s: float
    """Seconds since the load began."""
    copies: int
    """Copies of the served version from then on."""
    loaded: bool
    """Whether there was load."""


def follow_load(
    config: ServeConfig,
    *,
    video: bytes,
    clients: int,
    seconds: float,
    say: Callable[[str], None] = print,
) -> tuple[list[Moment], Row]:
    """Load an endpoint for `seconds`, then leave it alone until it has `min_replicas` copies again.

    Args:
        config: of the endpoint, with more `max_replicas` than `min_replicas`.
        video: the clip that every request sends.
        clients: how many send at once.
        seconds: length of the load.
        say: told what is being done.

    Returns:
        Every change of the number of copies, and how the load went.
    """
    moments: list[Moment] = []
    say("starting the endpoint, with copies that follow the load")
    with running(config) as address:
        deployment = MODEL.format(slot=httpx.get(f"{address}/v1/rollout", timeout=30).json()["active"])
        rows: list[Row] = []
        load = threading.Thread(
            target=lambda: rows.append(
                under_load(f"following the load, {clients} clients", address, video, clients, seconds)
            )
        )
        say(f"{clients} clients")
        started = time.monotonic()
        load.start()
        while load.is_alive() or _copies(deployment) > config.min_replicas:
            now, copies = time.monotonic() - started, _copies(deployment)
            if not moments or moments[-1].copies != copies:
                moments.append(Moment(at_s=now, copies=copies, loaded=load.is_alive()))
                say(f"{copies} copies after {now:.0f} s")
            if now > seconds + SHRINK_S:
                break
            time.sleep(LOOK_S)
        moments.append(
            Moment(at_s=time.monotonic() - started, copies=_copies(deployment), loaded=load.is_alive())
        )
        load.join()
        return moments, rows[0]


def timeline(moments: list[Moment]) -> str:
    """The changes, a line each."""
    return "\n".join(
        f"after {moment.at_s:5.0f} s, {'under load' if moment.loaded else 'idle      '}: "
        f"{moment.copies} {'copy' if moment.copies == 1 else 'copies'}"
        for moment in moments
    )


def _copies(deployment: str) -> int:
    states = serve.status().applications[APPLICATION].deployments[deployment].replica_states
    return sum(number for state, number in states.items() if state == "RUNNING")
