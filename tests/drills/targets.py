"""Endpoints for drills: a whole one, or its HTTP side alone."""

import asyncio
import contextlib
import ctypes
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import uvicorn

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in ("", "serve"))

from in_process import Endpoint, serving
from sdavs_serve.http.keys import KeyFile
from sdavs_serve.http.proxy import ReadLimits
from stack import free_port, running_stack

from sdavs_model.files import write_atomically


@dataclass(frozen=True, kw_only=True)
class Target:
    """The endpoint that is attacked."""

    address: str
    keys: KeyFile
    processes: Callable[[], dict[str, list[psutil.Process]]]
    """Its processes by their part; decoders are their children."""
    allocated_mb: Callable[[], dict[str, float]] = dict
    """What malloc has given out, by part, in MB, where that is known. Resident memory also has what was freed, which
    malloc keeps for the next time, apart for every thread."""

    def memory_mb(self) -> dict[str, float]:
        """Resident memory by part and of the decoders, in MB; and how many decoders there are."""
        found = {"decoders": 0.0, "number of decoders": 0.0}
        for part, processes in self.processes().items():
            found[part] = 0.0
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    found[part] += process.memory_info().rss / 1e6
                    decoders = process.children(recursive=True)
                    found["number of decoders"] += len(decoders)
                    found["decoders"] += sum(one.memory_info().rss for one in decoders) / 1e6
        return found | self.allocated_mb()


@contextmanager
def whole_endpoint(**limits: object) -> Iterator[Target]:
    """Ray, MLflow and an endpoint with a small model; `limits` are keys of its config."""
    with running_stack(**limits) as stack:

        def processes() -> dict[str, list[psutil.Process]]:
            found: dict[str, list[psutil.Process]] = {"proxy": [], "ingress": [], "model": []}
            for process in psutil.Process(stack.head).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    title = " ".join(process.cmdline())
                    if "ProxyActor" in title:
                        found["proxy"].append(process)
                    elif "ServeReplica:sdavs:ingress" in title:
                        found["ingress"].append(process)
                    elif "ServeReplica:sdavs:model" in title:
                        found["model"].append(process)
            return found

        yield Target(address=stack.address, keys=stack.keys, processes=processes)


@contextmanager
def http_only(**limits: object) -> Iterator[Target]:
    """The HTTP side behind Serve's web server and `ReadLimits`, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        server = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(Path(folder), port, limits)
        )
        server.start()
        try:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert server.is_alive()
                time.sleep(0.1)

            def allocated_mb() -> dict[str, float]:
                note = Path(folder) / "allocated"
                note.unlink(missing_ok=True)
                os.kill(server.pid, signal.SIGUSR1)
                while not note.exists():
                    time.sleep(0.1)
                return {"server, allocated": float(note.read_text())}

            yield Target(
                address=f"http://127.0.0.1:{port}",
                keys=KeyFile(Path(folder) / "keys.json"),
                processes=lambda: {"server": [psutil.Process(server.pid)]},
                allocated_mb=allocated_mb,
            )
        finally:
            server.terminate()
            server.join()


def _serve(folder: Path, port: int, limits: dict[str, object]) -> None:
    signal.signal(signal.SIGUSR1, lambda *_: write_atomically(folder / "allocated", f"{_allocated_mb():.1f}"))
    endpoint = Endpoint(folder, **limits)
    endpoint.followed.state = serving()

    async def app(scope: dict, receive: Callable, send: Callable) -> None:
        """As Serve's proxy: the request is cancelled when its client has gone."""
        messages: asyncio.Queue = asyncio.Queue(16)
        request = asyncio.create_task(endpoint.app(scope, messages.get, send))

        async def pump() -> None:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    request.cancel()
                await messages.put(message)

        pumping = asyncio.create_task(pump())
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await request
        finally:
            pumping.cancel()

    uvicorn.run(ReadLimits(app), host="127.0.0.1", port=port, log_level="critical", lifespan="off")


def _allocated_mb() -> float:
    """What malloc has given out to this process, in MB: glibc's mallinfo2."""
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"

    class Info(ctypes.Structure):
        _fields_ = tuple((name, ctypes.c_size_t) for name in names.split())

    libc = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = Info
    info = libc.mallinfo2()
    return (info.uordblks + info.hblkhd) / 1e6
