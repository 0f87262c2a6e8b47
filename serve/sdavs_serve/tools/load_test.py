"""Load test: throughput and latency of the endpoint at rising load, with and without batches, and of the bare model.

It also measures the CPU time of a request in each process of the endpoint.
"""

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import httpx
import numpy as np
import ray
from ray import serve
from sdavs_platform.config.serve import ServeConfig
from sdavs_platform.tables import text_table

from sdavs_serve.app import build
from sdavs_serve.decoding.media import decode_video, windows
from sdavs_serve.deployment import APPLICATION
from sdavs_serve.rollout.registry import look_up, verify
from sdavs_serve.rollout.state import Failure, Release
from sdavs_serve.tools import cpu_time

logger = logging.getLogger(__name__)

READY_S = 600.0

WARM_UP_S = 2.0
"""Load before the first measurement: the fork server of the decoders starts with the first upload, for example."""

IDLE_S = 5.0
"""How long the endpoint is watched without requests, for the CPU time that it takes then."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the report."""

    what: str
    num_clips: int
    """Clips, or batches of the bare model, that were measured."""
    clips_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    refused: int = 0
    """Responses other than 200, such as 429 beyond `max_requests`."""
    overhead_ms: float | None = None
    """Median time of a request without decoding and the model's call, whose own times the response reports."""
    cpu_ms: dict[str, float] = field(default_factory=dict)
    """CPU milliseconds of one clip by process, see `cpu_time.PARTS`; of the bare model under `MODEL`."""

    @property
    def all_cpu_ms(self) -> float:
        """CPU milliseconds of one clip in all processes together."""
        return sum(self.cpu_ms.values())


def measure(
    config: ServeConfig,
    *,
    video: bytes,
    clients: Sequence[int],
    seconds: float,
) -> list[Row]:
    """Measure the bare model in this process, then the endpoint on its own Ray cluster.

    Args:
        config: of the endpoint; its rollout plays no part.
        video: the clip that every request sends.
        clients: how many send at once, one measurement each.
        seconds: length of each measurement.

    Raises:
        ValueError: no such model, or one that does not verify.
    """
    target = look_up(config).target
    release = verify(target, config)
    if isinstance(release, Failure):
        raise ValueError(f"version {target.version}: {release.reason}")
    here = config if _gpu_is_here() else config.model_copy(update={"num_gpus": 0.0})
    rows = _bare(here, release, video, seconds)
    single = config.model_copy(update={"max_batch_frames": release.num_frames, "batch_wait_ms": 0.0})
    for batching, variant in (("one by one", single), ("in batches", config)):
        rows += _endpoint(variant, batching, video, clients, seconds)
    return rows


def report_table(rows: Sequence[Row]) -> str:
    """A table, what batching gains at the highest load, and where the CPU time of a request goes."""
    times = [
        [
            row.what,
            f"{row.clips_per_s:.2f}",
            *(round(value) for value in (row.p50_ms, row.p95_ms, row.p99_ms)),
            row.refused,
            "" if row.overhead_ms is None else f"{row.overhead_ms:.1f}",
            f"{row.all_cpu_ms:.1f}",
        ]
        for row in rows
    ]
    head = ["", "clips/s", "p50 ms", "p95 ms", "p99 ms", "refused", "overhead ms", "CPU ms"]
    served = [row for row in rows if row.what.startswith("endpoint")]
    before, after = served[len(served) // 2 - 1], served[-1]
    gain = f"batching gains {after.clips_per_s / before.clips_per_s - 1:+.0%} throughput at the highest load"
    parts = [[row.what, *(f"{row.cpu_ms[part]:.1f}" for part in cpu_time.PARTS)] for row in served]
    by_process = text_table(["CPU ms of a request", *cpu_time.PARTS], parts)
    return "\n".join([text_table(head, times), gain, "", by_process])


def to_json(rows: Sequence[Row]) -> list[dict]:
    """The rows as plain data."""
    return [asdict(row) for row in rows]


def _gpu_is_here() -> bool:
    """The bare model falls back to the CPU as the endpoint does."""
    import torch

    return torch.cuda.is_available()


def _bare(config: ServeConfig, release: Release, video: bytes, seconds: float) -> list[Row]:
    from sdavs_serve.inference.served_model import ServedModel, frame_regions

    model = ServedModel.load(release, config=config)
    window = next(windows(decode_video(video, fps=config.fps, limits=config), num_frames=release.num_frames))
    inputs, size = model.prepare(window.clip), window.clip.frames.shape[1:3]
    most = max(1, config.max_batch_frames // len(inputs.frames))
    rows = []
    for at_once in sorted({1, most}):
        logger.info("bare model, %d at once", at_once)
        times, ends = [], time.monotonic() + seconds
        spent = time.process_time()
        while time.monotonic() < ends:
            started = time.perf_counter()
            for predicted in model.run([inputs] * at_once):
                frame_regions(predicted.logits, size=size, threshold=0.5)
            times.append(time.perf_counter() - started)
        num_clips = at_once * len(times)
        cpu_ms = {cpu_time.MODEL: 1000 * (time.process_time() - spent) / num_clips}
        what = f"bare model, {at_once} at once"
        rows.append(_row(what, times, num_clips / sum(times), cpu_ms=cpu_ms))
    return rows


def _endpoint(
    config: ServeConfig,
    batching: str,
    video: bytes,
    clients: Sequence[int],
    seconds: float,
) -> list[Row]:
    logger.info("starting the endpoint, %s", batching)
    rows = []
    with running(config) as address:
        under_load("warm-up", address, video, 1, WARM_UP_S)
        idle = _idle_rates()
        for count in clients:
            logger.info("endpoint, %s, %d clients", batching, count)
            before, started = cpu_time.cpu_seconds(), time.monotonic()
            row = under_load(f"endpoint, {batching}, {count} clients", address, video, count, seconds)
            after, took = cpu_time.cpu_seconds(), time.monotonic() - started
            cpu_ms = cpu_time.per_request(
                before,
                after,
                num_requests=row.num_clips,
                idle_s={part: rate * took for part, rate in idle.items()},
            )
            rows.append(replace(row, cpu_ms=cpu_ms))
    return rows


def _idle_rates() -> dict[str, float]:
    """CPU seconds in a second without requests, by process."""
    before, started = cpu_time.cpu_seconds(), time.monotonic()
    time.sleep(IDLE_S)
    after, took = cpu_time.cpu_seconds(), time.monotonic() - started
    return {part: (after[part] - before[part]) / took for part in cpu_time.PARTS}


@contextmanager
def running(config: ServeConfig) -> Iterator[str]:
    """An endpoint on a private Ray, by its address; a Ray that runs already is not touched.

    Raises:
        ValueError: the version was refused.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"log_level": "ERROR"})
        serve.run(build(config.model_dump(mode="json")), name=APPLICATION, route_prefix="/")
        address = f"http://127.0.0.1:{port}"
        _wait_ready(address)
        yield address
    finally:
        serve.shutdown()
        ray.shutdown()


def under_load(what: str, address: str, video: bytes, count: int, seconds: float) -> Row:
    """`count` clients that send `video` again and again for `seconds`; refused ones wait for `Retry-After`."""
    times: list[float] = []
    overheads: list[float] = []
    statuses: Counter[int] = Counter()
    ends = time.monotonic() + seconds

    def client() -> None:
        with httpx.Client(base_url=address, timeout=120) as http:
            while time.monotonic() < ends:
                started = time.perf_counter()
                answer = http.post(
                    "/v1/segment", files={"video": video}, headers={"Cache-Control": "no-cache"}
                )
                statuses[answer.status_code] += 1
                if answer.is_success:
                    took_s = time.perf_counter() - started
                    times.append(took_s)
                    parts = answer.json()["timings_ms"]
                    overheads.append(1000 * took_s - parts["decode"] - parts["model"])
                else:
                    time.sleep(float(answer.headers.get("Retry-After", 1)))

    threads = [threading.Thread(target=client) for _ in range(count)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - started
    refused = sum(number for status, number in statuses.items() if status != 200)
    overhead_ms = float(np.median(overheads)) if overheads else None
    return _row(what, times, len(times) / took, refused=refused, overhead_ms=overhead_ms)


def _row(what: str, times: Sequence[float], clips_per_s: float, **others: Any) -> Row:
    p50, p95, p99 = np.percentile(times, [50, 95, 99]) * 1000 if len(times) else (float("nan"),) * 3
    return Row(
        what=what,
        num_clips=len(times),
        clips_per_s=clips_per_s,
        p50_ms=float(p50),
        p95_ms=float(p95),
        p99_ms=float(p99),
        **others,
    )


def _wait_ready(address: str) -> None:
    deadline = time.monotonic() + READY_S
    while httpx.get(f"{address}/readyz", timeout=30).status_code != 200:
        state = httpx.get(f"{address}/v1/rollout", timeout=30).json()
        if state.get("refused"):
            raise ValueError(f"version {state['refused']['version']}: {state['refused']['reason']}")
        if time.monotonic() > deadline:
            raise ValueError(f"the endpoint is not ready after {READY_S:g} s")
        time.sleep(0.5)
