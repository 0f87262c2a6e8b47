"""Admission of uploads before their body is read: how many at once, and how large."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdavs_serve.errors import Busy, RequestError
from sdavs_serve.http.problems import problem_response

MEGABYTE = 1_000_000

SEGMENT = "/v1/segment"


class Admission:
    """ASGI middleware around the whole app that limits uploads.

    Probes are not counted, so that a busy endpoint still answers them.
    """

    def __init__(self, app: ASGIApp, *, max_requests: int, max_upload_mb: float) -> None:
        self._app = app
        self._max_requests = max_requests
        self._max_upload_mb = max_upload_mb
        self._num_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer 413 or 429."""
        if scope["type"] != "http" or scope["path"] != SEGMENT:
            await self._app(scope, receive, send)
            return
        if self._num_requests >= self._max_requests:
            await problem_response(Busy(self._max_requests), scope)(scope, receive, send)
            return
        self._num_requests += 1
        try:
            await self._limited(scope, receive, send)
        finally:
            self._num_requests -= 1

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        num_bytes = 0
        refused = False

        async def counted() -> Message:
            nonlocal num_bytes, refused
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_upload_mb * MEGABYTE:
                refused = True
                raise self._too_large()
            return message

        async def guarded(message: Message) -> None:
            # FastAPI turns an exception while it reads a form into a 400 of its own; the 413 below replaces it.
            if not refused:
                await send(message)

        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdigit() and int(announced) > self._max_upload_mb * MEGABYTE:
            await problem_response(self._too_large(), scope)(scope, receive, send)
            return
        await self._app(scope, counted, guarded)
        if refused:
            await problem_response(self._too_large(), scope)(scope, receive, send)

    def _too_large(self) -> RequestError:
        return RequestError(
            status=413,
            kind="too_large",
            detail=f"the request is larger than {self._max_upload_mb:g} MB",
            limit="max_upload_mb",
        )
