"""Clients that mean harm next to honest ones: the honest ones are answered as if they were alone.

    .venv/bin/python tests/drills/abuse.py
    .venv/bin/python tests/drills/abuse.py --seconds 30 --clients 4

Starts Ray, MLflow and an endpoint of its own, on this machine only. Measures honest clients alone, then for as long
again while others open sockets and send no body (with and without a key), stall in the middle of an upload, hang up
while they are being answered, upload files that are expensive to decode, and do not read what they asked for. Prints
what the honest ones got, and the memory of the ingress and its decoders before and after.
"""

import argparse
import base64
import contextlib
import io
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import av
import httpx
import numpy as np
import psutil

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in ("", "serve"))

from stack import Stack, running_stack
from uploads import write_video

LIMITS = {"max_seconds": 60, "max_upload_mb": 8, "max_frames": 600, "max_requests": 8, "decoder_cpu_s": 20}
IDLE_SOCKETS, STALLED_UPLOADS, HANG_UPS, BOMBS, UNREAD = 48, 8, 4, 2, 4
BOUNDARY = "----abuse"


class Honest:
    """Clients that send a small clip again and again, and wait for as long as they are asked to."""

    def __init__(self, stack: Stack, video: bytes, *, clients: int) -> None:
        self.statuses: Counter[int] = Counter()
        self.seconds: list[float] = []
        self.probes: list[float] = []
        self._stack = stack
        self._video = video
        self._over = threading.Event()
        work = [self._ask] * clients + [self._probe]
        self._threads = [threading.Thread(target=target) for target in work]

    def __enter__(self) -> "Honest":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def p95(self) -> float:
        return float(np.percentile(self.seconds, 95)) if self.seconds else float("nan")

    def _ask(self) -> None:
        while not self._over.is_set():
            started = time.monotonic()
            answer = self._stack.post(video=self._video)
            self.statuses[answer.status_code] += 1
            if answer.status_code == 200:
                self.seconds.append(time.monotonic() - started)
            else:
                time.sleep(float(answer.headers.get("Retry-After", 1)))

    def _probe(self) -> None:
        while not self._over.wait(0.5):
            started = time.monotonic()
            httpx.get(f"{self._stack.address}/readyz", timeout=30).raise_for_status()
            self.probes.append(time.monotonic() - started)


def request(stack: Stack, path: str, headers: dict[str, str], body: bytes = b"") -> socket.socket:
    """A connection on which a request, or the beginning of one, has been sent."""
    connection = socket.create_connection(("127.0.0.1", stack.config.port), timeout=30)
    lines = [f"POST {path} HTTP/1.1", "Host: abuse", *(f"{name}: {value}" for name, value in headers.items())]
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
    return connection


def upload(stack: Stack, content: bytes, *, fields: str = "") -> tuple[dict[str, str], bytes]:
    """Headers and body of a whole upload."""
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="video"; filename="a"\r\n\r\n'
    body = fields.encode() + part.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    return stack.admin | {"Content-Type": kind, "Content-Length": str(len(body))}, body


def idle_webhooks(stack: Stack, over: threading.Event) -> None:
    """Without a key: the header of a signature, and no body."""
    headers = {
        "X-MLflow-Signature": "v1," + base64.b64encode(bytes(32)).decode(),
        "X-MLflow-Timestamp": str(int(time.time())),
        "Content-Length": "1000",
    }
    while not over.is_set():
        with contextlib.ExitStack() as opened:
            for _ in range(IDLE_SOCKETS):
                opened.enter_context(request(stack, "/v1/rollout/nudge", headers))
            over.wait(10)


def stalled_uploads(stack: Stack, over: threading.Event) -> None:
    """With a key: the first kilobyte of a megabyte."""
    headers, body = upload(stack, bytes(1_000_000))
    while not over.is_set():
        with contextlib.ExitStack() as opened:
            for _ in range(STALLED_UPLOADS):
                opened.enter_context(request(stack, "/v1/segment", headers, body[:1000]))
            over.wait(15)


def expensive_video() -> bytes:
    """Little to send and much to decode: full HD pictures of one colour, thirty a second."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 1920, 1080, "yuv420p"
        audio = container.add_stream("aac", rate=48_000, layout="mono")
        picture = av.VideoFrame.from_ndarray(np.full((1080, 1920, 3), 90, np.uint8), format="rgb24")
        for index in range(30 * 20):
            picture.pts = index
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        silence = av.AudioFrame.from_ndarray(
            np.zeros((1, 20 * 48_000), np.float32), format="fltp", layout="mono"
        )
        silence.sample_rate = 48_000
        container.mux(audio.encode(silence))
        container.mux(audio.encode(None))
    return file.getvalue()


def hang_ups(stack: Stack, over: threading.Event, bomb: bytes) -> None:
    """A whole upload of an expensive file, and the connection closed a second later."""
    headers, body = upload(stack, bomb)
    while not over.is_set():
        with contextlib.suppress(OSError), request(stack, "/v1/segment", headers, body):
            over.wait(1)


def bombs(stack: Stack, over: threading.Event, bomb: bytes) -> None:
    """The same, waiting for the answer."""
    while not over.is_set():
        with contextlib.suppress(httpx.HTTPError):
            stack.post(video=bomb, accept="application/zip")
        over.wait(1)


def unread(stack: Stack, over: threading.Event, video: bytes) -> None:
    """Answers that nobody reads, on connections that stay open."""
    headers, body = upload(stack, video)
    with contextlib.ExitStack() as opened:
        while not over.wait(2):
            with contextlib.suppress(OSError):
                opened.enter_context(request(stack, "/v1/segment", headers | {"Accept": "video/mp4"}, body))


@contextmanager
def abused(work: Sequence[Callable[[threading.Event], None]]) -> Iterator[None]:
    over = threading.Event()
    threads = [threading.Thread(target=one, args=(over,)) for one in work]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def memory(stack: Stack) -> tuple[float, int]:
    """Resident memory of the ingress and its descendants in MB, and how many those are."""
    (ingress,) = (psutil.Process(number) for number in stack.processes("ingress"))
    family = [ingress, *ingress.children(recursive=True)]
    return sum(process.memory_info().rss for process in family) / 1e6, len(family) - 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--seconds", type=float, default=120, help="of each part (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=4, help="honest ones (default: %(default)s)")
    flags = parser.parse_args()
    small, bomb = write_video(2), expensive_video()

    with running_stack(**LIMITS) as stack:
        stack.post(video=small)  # what is set up once is no growth
        with Honest(stack, small, clients=flags.clients) as alone:
            time.sleep(flags.seconds)
        before, _ = memory(stack)
        work: list[Callable[[threading.Event], None]] = [
            lambda over: idle_webhooks(stack, over),
            lambda over: stalled_uploads(stack, over),
            *[lambda over: hang_ups(stack, over, bomb)] * HANG_UPS,
            *[lambda over: bombs(stack, over, bomb)] * BOMBS,
            *[lambda over: unread(stack, over, small)] * UNREAD,
        ]
        with abused(work), Honest(stack, small, clients=flags.clients) as honest:
            time.sleep(flags.seconds)
        time.sleep(15)
        after, decoders = memory(stack)
        hung_up = stack.metric("sdavs_requests_total", path="/v1/segment", status="499")

    for name, part in (("alone", alone), ("with the others", honest)):
        answers = ", ".join(f"{count} x {status}" for status, count in sorted(part.statuses.items()))
        slowest = max(part.probes, default=float("nan"))
        print(f"{name:<16} p95 {part.p95():5.2f} s, {answers}; slowest probe {slowest:.2f} s")
    print(
        f"hung up: {hung_up:.0f}; memory {before:.0f} MB before, {after:.0f} MB after; processes left {decoders}"
    )
    failed = {status for status in honest.statuses if status >= 500}
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
