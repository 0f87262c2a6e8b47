"""Middleware in Serve's proxy that disconnects clients that do not read their response.

The proxy holds a response in memory until the client has read it, so this is the only place where unread responses can
be bounded: a replica has sent everything by then. `ray_internals.PROXY_MIDDLEWARES` installs it on every node.
"""

import asyncio
import logging
import time
from dataclasses import dataclass

from sdavs_platform.ray_internals import abort_connection
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("ray.serve")

GRACE_S = 10.0
"""How long a piece of a response may always wait for its reader."""

MIN_KB_S = 8.0
"""How fast each piece must be read beyond that, in kilobytes a second; as the slowest upload by default. Pieces that
were read quickly earn nothing for later ones: the first megabytes only fill the buffers of the network."""

MAX_SLOW = 32
"""Responses of one proxy with a piece that waited longer than GRACE_S; one more ends the oldest. Our choice."""

CHECK_S = 0.5


@dataclass(kw_only=True)
class _Sending:
    num_bytes: int = 0
    """Sent, or in the buffers of the network."""
    dropped: bool = False


class ReadLimits:
    """ASGI middleware that ends connections whose client reads too slowly."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        grace_s: float = GRACE_S,
        min_kb_s: float = MIN_KB_S,
        max_slow: int = MAX_SLOW,
    ) -> None:
        """
        Args:
            app: the proxy.
            grace_s: see GRACE_S.
            min_kb_s: see MIN_KB_S.
            max_slow: see MAX_SLOW.
        """
        self._app = app
        self._grace_s = grace_s
        self._rate = 1000 * min_kb_s
        self._max_slow = max_slow
        self._slow: dict[int, _Sending] = {}
        """In the order in which they became slow."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; watch how its response is read."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sending = _Sending()

        async def limited(message: Message) -> None:
            await self._send(sending, message, send)

        try:
            await self._app(scope, receive, limited)
        finally:
            self._slow.pop(id(sending), None)

    async def _send(self, sending: _Sending, message: Message, send: Send) -> None:
        began, size = time.monotonic(), len(message.get("body", b""))
        written = asyncio.ensure_future(send(message))
        try:
            while not written.done():
                await asyncio.wait({written}, timeout=min(CHECK_S, self._grace_s))
                waited = time.monotonic() - began
                if not written.done() and self._is_too_slow(sending, waited_s=waited, size=size):
                    logger.warning(
                        "closing the connection of a client that stopped reading after %d bytes",
                        sending.num_bytes,
                    )
                    # The server then drops the rest of the response, and the proxy learns that the client has gone.
                    abort_connection(send)
                    break
            await written
        finally:
            written.cancel()
        sending.num_bytes += size

    def _is_too_slow(self, sending: _Sending, *, waited_s: float, size: int) -> bool:
        if sending.dropped:
            return True
        if waited_s <= self._grace_s:
            return False
        self._slow.setdefault(id(sending), sending)
        while len(self._slow) > self._max_slow:
            self._slow.pop(next(iter(self._slow))).dropped = True
        return sending.dropped or waited_s > self._grace_s + size / self._rate


def middlewares() -> list[Middleware]:
    """What Serve's proxy puts around itself."""
    return [Middleware(ReadLimits)]
