"""Abuse an endpoint in every way at once, next to ten honest clients, and see what these notice.

    .venv/bin/python tests/drills/abuse.py
    .venv/bin/python tests/drills/abuse.py --http-only --seconds 30

Starts an endpoint of its own on this machine, and attacks that alone: sockets that never finish their
headers, uploads that stall, uploads without a key, clients that hang up, damaged and oversized files, responses that
nobody reads. Each kind of attack has a key of its own, which may have four clips in work at once. Prints the honest
clients' 95th percentile before and during the attack, their statuses, and the memory before and after it.

The endpoint is a whole one, with Ray, MLflow and a model. With --http-only it is the web server, the HTTP side and the
decoders, with made-up masks: what the limits and time-outs guard, without the minutes that the rest needs to start.

Ends with status 1 if an honest client got a 5xx, or waited more than three times as long as before (95th percentile).
"""

import argparse
import asyncio
import contextlib
import itertools
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in ("", "serve"))

from targets import Target, http_only, whole_endpoint
from uploads import chirp, write_png, write_video, write_wav

NUM_HONEST = 10
PAUSE_S = 2.0
"""Between two clips of an honest client."""

WARM_S, IDLE_S = 10.0, 20.0
COOL_S = 15.0
"""After the attack, before memory is read again: longer than an unread response is kept."""

MAX_RATIO = 3.0
"""Of the honest clients' 95th percentiles, attacked and idle."""

LIMITS = {"max_requests": 16, "max_upload_mb": 8}
NUM_SLOW, NUM_STALLED, NUM_KEYLESS, NUM_ABORTING, NUM_BOMBING, NUM_UNREAD = 60, 16, 4, 3, 3, 3
HELD_S = 15.0
"""How long an attacker holds a connection before it opens another one."""


@dataclass(kw_only=True)
class Seen:
    """What the honest clients saw."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def p95_s(self) -> float:
        return float(np.percentile(self.seconds, 95)) if self.seconds else float("nan")


async def be_honest(address: str, key: str, video: bytes, *, seconds: float) -> Seen:
    """Ten clients, each with one clip after the other; one that is refused with Retry-After waits and counts on."""
    seen, ends = Seen(), time.monotonic() + seconds
    headers = {"Authorization": f"Bearer {key}", "Cache-Control": "no-cache"}

    async def ask(number: int) -> None:
        await asyncio.sleep(PAUSE_S * number / NUM_HONEST)
        async with httpx.AsyncClient(base_url=address, headers=headers, timeout=60) as http:
            while time.monotonic() < ends:
                started = time.monotonic()
                while True:
                    answer = await http.post("/v1/segment", files={"video": video})
                    seen.statuses[answer.status_code] += 1
                    if answer.status_code != 429:
                        break
                    await asyncio.sleep(float(answer.headers.get("Retry-After", 1)))
                seen.seconds.append(time.monotonic() - started)
                await asyncio.sleep(PAUSE_S)

    await asyncio.gather(*(ask(number) for number in range(NUM_HONEST)))
    return seen


async def attack(address: str, new_key: Callable[[], str], video: bytes, *, seconds: float) -> Counter[str]:
    """All attacks at once; returns how often each was made."""
    made: Counter[str] = Counter()
    where = urlsplit(address)
    assert where.hostname in ("127.0.0.1", "localhost"), "only an endpoint of this machine"

    def head(size: int, *, accept: str = "application/json", key: str | None = None) -> bytes:
        lines = [
            f"POST /v1/segment HTTP/1.1\r\nHost: {where.hostname}\r\nAccept: {accept}",
            "Cache-Control: no-cache",
            f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {size}",
            *([f"Authorization: Bearer {key}"] if key else []),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n"

    async def send(content: bytes, *, hold_s: float, read: bool) -> None:
        reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=1024)
        try:
            writer.write(content)
            async with asyncio.timeout(hold_s):
                await writer.drain()
                if read:
                    await reader.read(1)
                await asyncio.sleep(hold_s)
        except TimeoutError:
            return
        finally:
            writer.transport.abort()

    clip = form({"video": [video]})
    noise = write_png(np.random.default_rng(0).integers(0, 255, (600, 600, 3), np.uint8))
    large = form(
        {"frames": [noise] * 3, "audio": [write_wav(chirp(3))], "overlay": [b"true"]}, text={"overlay"}
    )
    bombs = itertools.cycle(
        (
            form({"video": [video[: len(video) // 2]]}),
            form({"video": [b"\0\0\0\x20ftypisom" + bytes(100_000)]}),
            form({"frames": [write_png(np.zeros((6000, 6000), np.uint8))], "audio": [write_wav(chirp(1))]}),
        )
    )
    stalling, aborting, bombing, ignoring = (new_key() for _ in range(4))
    attacks: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
        "unfinished headers": (
            NUM_SLOW,
            lambda: send(b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nX-A: ", hold_s=HELD_S, read=False),
        ),
        "stalled uploads": (
            NUM_STALLED,
            lambda: send(head(500_000, key=stalling) + b"--x\r\n", hold_s=HELD_S, read=False),
        ),
        "without a key": (
            NUM_KEYLESS,
            lambda: send(head(len(clip)) + clip, hold_s=0.2, read=True),
        ),
        "hang up": (NUM_ABORTING, lambda: send(head(len(clip), key=aborting) + clip, hold_s=0.3, read=False)),
        "damaged or huge": (NUM_BOMBING, lambda: bomb(next(bombs))),
        "unread responses": (
            NUM_UNREAD,
            lambda: send(
                head(len(large), accept="application/zip", key=ignoring) + large, hold_s=HELD_S, read=False
            ),
        ),
    }

    async def bomb(content: bytes) -> None:
        await send(head(len(content), key=bombing) + content, hold_s=1.0, read=True)

    async def repeat(name: str, once: Callable[[], Awaitable[None]]) -> None:
        while True:
            made[name] += 1
            with contextlib.suppress(OSError):
                await once()
            await asyncio.sleep(0.05)

    attackers = [
        asyncio.create_task(repeat(name, once))
        for name, (count, once) in attacks.items()
        for _ in range(count)
    ]
    await asyncio.sleep(seconds)
    for attacker in attackers:
        attacker.cancel()
    await asyncio.gather(*attackers, return_exceptions=True)
    return made


def form(fields: dict[str, list[bytes]], *, text: set[str] = frozenset()) -> bytes:
    """A multipart body with the boundary x."""
    body = b""
    for name, values in fields.items():
        for value in values:
            file = "" if name in text else '; filename="a"'
            body += f'--x\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
            body += value + b"\r\n"
    return body + b"--x--\r\n"


async def run(target: Target, *, seconds: float) -> bool:
    """Idle, attack, rest; prints what was seen. Returns whether the honest clients noticed little."""
    video, honest = write_video(2), target.keys.add("segment")

    def leak() -> str:
        return target.keys.add("segment", note="leaked", at_once=4)

    # What is set up once is no growth: threads, buffers.
    await be_honest(target.address, honest, video, seconds=WARM_S)
    await attack(target.address, leak, video, seconds=WARM_S)
    await asyncio.sleep(COOL_S)
    idle = await be_honest(target.address, honest, video, seconds=IDLE_S)
    before = target.memory_mb()
    attacking = asyncio.create_task(attack(target.address, leak, video, seconds=seconds))
    attacked = await be_honest(target.address, honest, video, seconds=seconds)
    made = await attacking
    await asyncio.sleep(COOL_S)
    after = target.memory_mb()
    print("attacks:", ", ".join(f"{count} {name}" for name, count in made.items()))
    for name, seen in (("idle", idle), ("attacked", attacked)):
        statuses = ", ".join(f"{count} x {status}" for status, count in sorted(seen.statuses.items()))
        print(f"{name:>9}: p95 {seen.p95_s:.2f} s of {len(seen.seconds)} clips; {statuses}")
    ratio = attacked.p95_s / idle.p95_s
    num_failed = sum(count for status, count in attacked.statuses.items() if status >= 500)
    print(f"    ratio: {ratio:.1f}")
    print(f"      5xx: {num_failed}")
    for name in before:
        unit = "" if "num" in name else " MB"
        print(f"{name}: {before[name]:.0f}{unit} before, {after[name]:.0f}{unit} after")
    return ratio <= MAX_RATIO and num_failed == 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--seconds", type=float, default=120, help="length of the attack (default: 120)")
    parser.add_argument("--http-only", action="store_true", help="without Ray, MLflow and a model")
    flags = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started ends, too
    load, cores = psutil.getloadavg()[0], psutil.cpu_count()
    print(f"load of the machine before: {load:.1f} on {cores} cores", flush=True)
    with (http_only if flags.http_only else whole_endpoint)(**LIMITS) as target:
        print("the endpoint serves", flush=True)
        sys.exit(0 if asyncio.run(run(target, seconds=flags.seconds)) else 1)


if __name__ == "__main__":
    main()
