"""Autoscaling test: a timeline of the model replicas of a real endpoint under load and after it."""

import logging
import threading
import time
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families
from ray import serve
from sdavs_platform.config.serve import ServeConfig

from sdavs_serve.app import MODEL
from sdavs_serve.deployment import APPLICATION
from sdavs_serve.tools.load_test import Row, running, under_load

logger = logging.getLogger(__name__)

POLL_S = 0.5

SHRINK_S = 180.0
"""Longest wait for replicas to be removed; Serve averages the load over half a minute first."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A change of the load or of the number of replicas."""

    at_s: float
    """Seconds since the load began."""
    loaded: bool
    """Whether there is load from then on."""
    num_open: int
    """Requests being processed or waiting at that time."""
    replicas: int
    """Replicas of the served version from then on."""


def follow_load(
    config: ServeConfig,
    *,
    video: bytes,
    clients: int,
    seconds: float,
) -> tuple[list[Moment], Row]:
    """Load an endpoint for `seconds`, then leave it alone until it has `min_replicas` replicas again.

    Args:
        config: of the endpoint, with more `max_replicas` than `min_replicas`.
        video: the clip that every request sends.
        clients: how many send at once.
        seconds: length of the load.

    Returns:
        Every change, and how the load went.
    """
    moments: list[Moment] = []
    logger.info("starting the endpoint, with autoscaling")
    with running(config) as address:
        deployment = MODEL.format(slot=httpx.get(f"{address}/v1/rollout", timeout=30).json()["active"])
        rows: list[Row] = []
        load = threading.Thread(
            target=lambda: rows.append(
                under_load(f"following the load, {clients} clients", address, video, clients, seconds)
            )
        )
        logger.info("%d clients", clients)
        started = time.monotonic()
        load.start()
        while True:
            time.sleep(POLL_S)
            moment = Moment(
                at_s=time.monotonic() - started,
                loaded=load.is_alive(),
                num_open=_num_open(address),
                replicas=_replicas(deployment),
            )
            if not moments or (moments[-1].loaded, moments[-1].replicas) != (moment.loaded, moment.replicas):
                moments.append(moment)
                logger.info(_line(moment))
            shrunk = not moment.loaded and moment.replicas <= config.min_replicas
            if shrunk or moment.at_s > seconds + SHRINK_S:
                break
        load.join()
        return moments, rows[0]


def timeline(moments: list[Moment]) -> str:
    """The changes, a line each."""
    return "\n".join(_line(moment) for moment in moments)


def _line(moment: Moment) -> str:
    load = "under load" if moment.loaded else "idle      "
    replicas = "1 replica" if moment.replicas == 1 else f"{moment.replicas} replicas"
    return f"after {moment.at_s:4.0f} s, {load}, {moment.num_open:2d} requests open: {replicas}"


def _num_open(address: str) -> int:
    text = httpx.get(f"{address}/metrics", timeout=30).text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    num_open = sum(sample.value for sample in samples if sample.name == "sdavs_requests_open")
    return round(num_open) - 1  # without the one that has just asked


def _replicas(deployment: str) -> int:
    states = serve.status().applications[APPLICATION].deployments[deployment].replica_states
    return sum(number for state, number in states.items() if state == "RUNNING")
