"""GET /metrics for Prometheus: requests, model versions and the rollout, of all ingress replicas together.

Every replica publishes its numbers in Ray's key-value store, and the one that is scraped merges them. Ray exports its
own metrics (queues, replicas, GPUs) at its own address; they are not repeated.
"""

import asyncio
import logging
import threading
import time

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from sdavs_platform.ray_internals import kv_delete, kv_get, kv_keys, kv_put
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from sdavs_serve.http.auth import KEY_OF_REQUEST
from sdavs_serve.http.problems import REQUEST_ID_HEADER, SeenStatus
from sdavs_serve.rollout.state import SLOTS, RolloutState

logger = logging.getLogger("ray.serve")

SNAPSHOTS = "metrics/"
PUBLISH_S = 2.0
FORGET_S = 600.0
"""How long the numbers of an ingress that has ended are still reported."""

HUNG_UP = 499
"""Status of requests whose client has closed the connection, as nginx names it. Serve cancels them."""

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
PATHS = {
    "/v1/segment",
    "/v1/jobs",
    "/v1/model",
    "/v1/rollout",
    "/v1/rollout/nudge",
    "/healthz",
    "/readyz",
    "/metrics",
    "/",
}


class Metrics:
    """Counters of one ingress replica."""

    def __init__(self, *, max_requests: int) -> None:
        """
        Args:
            max_requests: how many requests it admits at once.
        """
        disable_created_metrics()
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "sdavs_requests", "Requests answered, by path and status", ["path", "status"], registry=registry
        )
        self.keys = Counter(
            "sdavs_key_requests",
            "Requests of an API key, by its id and status",
            ["key", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "sdavs_request_seconds", "Time of a request", ["path"], buckets=SECONDS, registry=registry
        )
        self.open = Gauge("sdavs_requests_open", "Requests in work", registry=registry)
        Gauge("sdavs_requests_limit", "Requests admitted at once", registry=registry).set(max_requests)
        self.frames = Counter(
            "sdavs_frames", "Frames answered, by model version", ["version"], registry=registry
        )
        self.jobs = Counter("sdavs_jobs", "Jobs that have ended, by state", ["state"], registry=registry)
        self.part_seconds = Counter(
            "sdavs_segment_seconds",
            "Time spent on /v1/segment, by part of the work",
            ["part"],
            registry=registry,
        )
        self._replica = ""

    def publish(self, replica: str) -> None:
        """Publish the numbers for the other replicas every `PUBLISH_S`, from now on, under this replica's name."""
        self._replica = replica
        threading.Thread(target=self._publish, name="metrics", daemon=True).start()

    def text(self, state: RolloutState) -> bytes:
        """All replicas' numbers and the rollout's, in Prometheus' text format."""
        self._put()
        merged: dict[str, Metric] = {}
        for name in kv_keys(SNAPSHOTS):
            content = kv_get(name) or b"0\n"
            written, _, text = content.decode().partition("\n")
            if time.time() - float(written) > FORGET_S:
                kv_delete(name)
                continue
            replica = name.removeprefix(SNAPSHOTS)
            for family in text_string_to_metric_families(text):
                whole = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    whole.add_sample(sample.name, sample.labels | {"replica": replica}, sample.value)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Merged(list(merged.values())))  # type: ignore[arg-type]
        return generate_latest(registry) + generate_latest(_of_rollout(state))

    def _put(self) -> None:
        content = f"{time.time()}\n".encode() + generate_latest(self._registry)
        kv_put(SNAPSHOTS + self._replica, content)

    def _publish(self) -> None:
        while True:
            self._put()
            time.sleep(PUBLISH_S)


class RequestMetrics:
    """ASGI middleware that counts requests."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; record its status and duration."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Only known paths get a label: clients could invent any number of others.
        path = scope["path"] if scope["path"] in PATHS else "other"
        if scope["path"].startswith("/v1/jobs/"):
            path = "/v1/jobs/{job_id}"
        seen = SeenStatus(send)
        started = time.perf_counter()
        self._metrics.open.inc()
        try:
            await self._app(scope, receive, seen)
        except asyncio.CancelledError:
            # With the response passed on, only cleaning up was cancelled.
            if not seen.complete:
                seen.status = HUNG_UP
            raise
        finally:
            self._metrics.open.dec()
            self._metrics.requests.labels(path, str(seen.status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)
            if key := scope.get(KEY_OF_REQUEST):
                self._metrics.keys.labels(key, str(seen.status)).inc()
                request_id = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
                logger.info(
                    "key %s: %s %s %d, request %s", key, scope["method"], path, seen.status, request_id
                )


class _Merged:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _of_rollout(state: RolloutState) -> CollectorRegistry:
    registry = CollectorRegistry()
    weight = Gauge(
        "sdavs_version_weight", "Fraction of requests that a version answers", ["version"], registry=registry
    )
    for slot in SLOTS:
        release = state.slots[slot]
        if release:
            answers = state.weight if slot == state.tried else 1 - state.weight if state.tried else 1.0
            weight.labels(str(release.version)).set(answers if slot in (state.tried, state.trusted) else 0.0)
    phase = Gauge(
        "sdavs_rollout_phase", "1 for the current phase of the rollout", ["phase"], registry=registry
    )
    phase.labels(state.phase).set(1)
    Gauge("sdavs_rollouts", "Rollouts started", registry=registry).set(state.rollout)
    Gauge("sdavs_rollbacks", "Versions that were rolled back in their bake", registry=registry).set(
        state.rollbacks
    )
    Gauge("sdavs_version_refused", "1 while the alias points to a refused version", registry=registry).set(
        state.refused is not None
    )
    Gauge("sdavs_ready", "1 while replicas of the served version are alive", registry=registry).set(
        state.live
    )
    Gauge("sdavs_alias_trouble", "1 while the alias cannot be followed", registry=registry).set(
        state.trouble is not None
    )
    return registry
