"""Clients that do not read their response, against the web server that Serve's proxy runs."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvicorn
from ray.serve._private import constants
from ray.serve._private.http_util import validate_http_proxy_callback_return
from sdavs_platform import ray_internals
from sdavs_serve.http.proxy import ReadLimits, middlewares
from waiting import patience

DOCKERFILE = Path(__file__).resolve().parents[2] / "infra" / "docker" / "Dockerfile"
PIECE = bytes(1 << 20)
NUM_PIECES = 16


class Server:
    """An app that answers with 16 MB, behind `ReadLimits`."""

    def __init__(self, **limits: float) -> None:
        self.over = 0
        """Responses that have ended, completely or not."""
        self.whole = 0
        self._app = ReadLimits(self._answer, **limits)

    async def _answer(self, scope: dict, receive: Callable[[], Awaitable[dict]], send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        for _ in range(NUM_PIECES):
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
        await send({"type": "http.response.body"})
        self.over += 1

    async def run(self, scenario: Callable[[int], Awaitable[None]]) -> None:
        server = uvicorn.Server(uvicorn.Config(self._app, port=0, lifespan="off", log_level="error"))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            await scenario(server.servers[0].sockets[0].getsockname()[1])
        finally:
            server.force_exit = server.should_exit = True
            await serving


async def connect(port: int) -> socket.socket:
    """A request whose response nobody reads."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", port))
    await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    return client


async def read_all(client: socket.socket, *, pause_s: float = 0.0) -> int:
    """Bytes until the end of the connection; with a pause after each of the first few megabytes."""
    received = 0
    with contextlib.suppress(ConnectionResetError):
        while piece := await asyncio.get_running_loop().sock_recv(client, 1 << 20):
            received += len(piece)
            await asyncio.sleep(pause_s if received < 3_000_000 else 0)
    return received


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(patience(10)):
        while not what():
            await asyncio.sleep(0.02)


def test_a_response_that_nobody_reads_ends():
    server = Server(grace_s=0.2, min_kb_s=10_000)

    async def scenario(port: int) -> None:
        with await connect(port) as client:
            await until(lambda: server.over == 1)
            assert await read_all(client) < NUM_PIECES * len(PIECE)

    asyncio.run(server.run(scenario))


def test_a_client_that_reads_slowly_but_fast_enough_gets_everything():
    server = Server(grace_s=0.2, min_kb_s=1000)

    async def scenario(port: int) -> None:
        with await connect(port) as client:
            assert await read_all(client, pause_s=0.0005) > NUM_PIECES * len(PIECE)

    asyncio.run(server.run(scenario))


def test_of_too_many_slow_clients_the_oldest_ends():
    server = Server(grace_s=0.2, min_kb_s=1e-6, max_slow=2)

    async def scenario(port: int) -> None:
        clients = [await connect(port), await connect(port)]
        await asyncio.sleep(0.6)
        assert server.over == 0, "two may be slow"
        for ended in (1, 2):
            clients.append(await connect(port))
            await until(lambda ended=ended: server.over == ended)
        for client in clients:
            client.close()

    asyncio.run(server.run(scenario))


def test_serve_takes_the_middleware_and_the_end_of_replicas_that_hang_from_variables():
    assert validate_http_proxy_callback_return(middlewares())[0].cls is ReadLimits
    for variable in (ray_internals.PROXY_MIDDLEWARES, ray_internals.FORCE_STOP_UNHEALTHY):
        assert f'"{variable}"' in Path(constants.__file__).read_text()
        assert f" {variable}=" in DOCKERFILE.read_text()
