"""Admission of uploads: how many at once, how large, how slow.

Receiving an upload and processing it take different slots. Clients with a slow connection therefore hold up neither
each other nor those whose upload is complete.
"""

import asyncio
import time
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdavs_serve.errors import Busy, RequestError
from sdavs_serve.http.problems import problem_response

MEGABYTE = 1_000_000

SEGMENT = "/v1/segment"

UPLOADS = (SEGMENT, "/v1/jobs")
"""Paths that take clips."""

GRACE_S = 10.0
"""How long an upload may take to get up to `min_upload_kb_s`."""


@dataclass(frozen=True, kw_only=True)
class UploadLimits:
    """The keys of `ServeConfig` that admission checks."""

    max_requests: int
    max_uploads: int
    max_upload_mb: float
    upload_timeout_s: float
    min_upload_kb_s: float


class Admission:
    """ASGI middleware around the whole app that limits uploads.

    Other requests are not counted, so that a busy endpoint still responds to probes.
    """

    def __init__(self, app: ASGIApp, *, limits: UploadLimits) -> None:
        self._app = app
        self._limits = limits
        self._uploading = 0
        self._processing = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or respond with 408, 413 or 429."""
        if scope["type"] != "http" or scope["path"] not in UPLOADS:
            await self._app(scope, receive, send)
            return
        if error := self._refusal(scope):
            await problem_response(error, scope)(scope, receive, send)
            return
        upload = _Upload(self, receive)

        async def guarded(message: Message) -> None:
            # The app turns an exception while it reads the body into a response of its own; `upload.error` replaces it.
            if upload.error is None:
                await send(message)

        self._uploading += 1
        try:
            await self._app(scope, upload.receive, guarded)
        except RequestError:
            if upload.error is None:
                raise
        finally:
            if upload.complete:
                self._processing -= 1
            else:
                self._uploading -= 1
        if upload.error is not None:
            await problem_response(upload.error, scope)(scope, receive, send)

    @property
    def limits(self) -> UploadLimits:
        """What is enforced."""
        return self._limits

    def begin_processing(self) -> bool:
        """Move a complete upload to a slot for processing; False if there is none."""
        if self._processing >= self._limits.max_requests:
            return False
        self._uploading -= 1
        self._processing += 1
        return True

    def _refusal(self, scope: Scope) -> RequestError | None:
        limits = self._limits
        if self._processing >= limits.max_requests:
            return Busy(limits.max_requests)
        if self._uploading >= limits.max_uploads:
            detail = f"{limits.max_uploads} uploads are being received already; try again shortly"
            return RequestError(status=429, kind="busy", detail=detail, limit="max_uploads", retry_after_s=1)
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdigit() and int(announced) > limits.max_upload_mb * MEGABYTE:
            return _too_large(limits)
        return None


class _Upload:
    """The body of one request, with its limits."""

    def __init__(self, admission: Admission, receive: Receive) -> None:
        self._admission = admission
        self._limits = admission.limits
        self._receive = receive
        self._began = time.monotonic()
        self._num_bytes = 0
        self.complete = False
        self.error: RequestError | None = None

    async def receive(self) -> Message:
        """The next message. Raises `error`, which is kept: whoever reads a body hides what goes wrong."""
        if self.complete:
            return await self._receive()  # it only tells now that the client has hung up
        try:
            async with asyncio.timeout(self._time_left()):
                message = await self._receive()
        except TimeoutError:
            raise self._failed(self._too_slow()) from None
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > self._limits.max_upload_mb * MEGABYTE:
            raise self._failed(_too_large(self._limits))
        if message["type"] == "http.request" and not message.get("more_body", False):
            if not self._admission.begin_processing():
                raise self._failed(Busy(self._limits.max_requests))
            self.complete = True
        return message

    def _time_left(self) -> float:
        earned = GRACE_S + self._num_bytes / (1000 * self._limits.min_upload_kb_s)
        return self._began + min(earned, self._limits.upload_timeout_s) - time.monotonic()

    def _too_slow(self) -> RequestError:
        limits = self._limits
        if time.monotonic() - self._began >= limits.upload_timeout_s:
            detail = f"the upload takes longer than {limits.upload_timeout_s:g} s"
            return RequestError(status=408, kind="slow_upload", detail=detail, limit="upload_timeout_s")
        detail = f"the upload is slower than {limits.min_upload_kb_s:g} kB/s"
        return RequestError(status=408, kind="slow_upload", detail=detail, limit="min_upload_kb_s")

    def _failed(self, error: RequestError) -> RequestError:
        self.error = error
        return error


def _too_large(limits: UploadLimits) -> RequestError:
    detail = f"the request is larger than {limits.max_upload_mb:g} MB"
    return RequestError(status=413, kind="too_large", detail=detail, limit="max_upload_mb")
