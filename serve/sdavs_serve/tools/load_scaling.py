"""Copies of the model that come with the load and go with it: a timeline from a real endpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families
from ray import serve
from sdavs_platform.config.serve import ServeConfig

from sdavs_serve.app import APPLICATION, MODEL
from sdavs_serve.tools.load_test import Row, running, under_load

LOOK_S = 0.5

SHRINK_S = 180.0
"""Longest wait for the copies to go again; Serve averages the load over half a minute before it judges."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A change of the load or of the number of copies."""

    at_s: float
    """Seconds since the load began."""
    loaded: bool
    """Whether there is load from then on."""
    num_open: int
    """Requests in work or waiting just then."""
    copies: int
    """Copies of the served version from then on."""


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
        Every change, and how the load went.
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
        while True:
            time.sleep(LOOK_S)
            moment = Moment(
                at_s=time.monotonic() - started,
                loaded=load.is_alive(),
                num_open=_num_open(address),
                copies=_copies(deployment),
            )
            if not moments or (moments[-1].loaded, moments[-1].copies) != (moment.loaded, moment.copies):
                moments.append(moment)
                say(_line(moment))
            shrunk = not moment.loaded and moment.copies <= config.min_replicas
            if shrunk or moment.at_s > seconds + SHRINK_S:
                break
        load.join()
        return moments, rows[0]


def timeline(moments: list[Moment]) -> str:
    """The changes, a line each."""
    return "\n".join(_line(moment) for moment in moments)


def _line(moment: Moment) -> str:
    load = "under load" if moment.loaded else "idle      "
    copies = "1 copy" if moment.copies == 1 else f"{moment.copies} copies"
    return f"after {moment.at_s:4.0f} s, {load}, {moment.num_open:2d} requests open: {copies}"


def _num_open(address: str) -> int:
    text = httpx.get(f"{address}/metrics", timeout=30).text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    num_open = sum(sample.value for sample in samples if sample.name == "sdavs_requests_open")
    return round(num_open) - 1  # without the one that has just asked


def _copies(deployment: str) -> int:
    states = serve.status().applications[APPLICATION].deployments[deployment].replica_states
    return sum(number for state, number in states.items() if state == "RUNNING")
