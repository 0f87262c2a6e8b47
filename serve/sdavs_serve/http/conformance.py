"""Details of HTTP that FastAPI leaves out: HEAD, malformed headers, how many files a form may have."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdavs_serve.errors import RequestError
from sdavs_serve.http.problems import REQUEST_ID_HEADER, problem_response

MAX_REQUEST_ID = 128
"""Characters; request ids are repeated in responses and logs."""


class Conformance:
    """ASGI middleware around everything else: 400 for malformed headers, and HEAD wherever there is GET."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or respond with 400."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if error := _malformed(scope):
            # Without the headers: the id would be repeated in the response.
            await problem_response(error, {**scope, "headers": []})(scope, receive, send)
            return
        if scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        changed = {**scope, "method": "GET"}
        try:
            await self._app(changed, receive, without_body)
        finally:
            scope.update({name: value for name, value in changed.items() if name not in scope})


def _malformed(scope: Scope) -> RequestError | None:
    for name, value in scope["headers"]:
        if not (name.isascii() and value.isascii()):
            detail = f"the header {name.decode('ascii', 'replace')} has characters other than ASCII"
            return RequestError(status=400, kind="invalid", detail=detail)
        if name == REQUEST_ID_HEADER.encode() and len(value) > MAX_REQUEST_ID:
            detail = f"the header {REQUEST_ID_HEADER} has more than {MAX_REQUEST_ID} characters"
            return RequestError(status=400, kind="invalid", detail=detail)
    return None


def route_with_files(max_frames: int) -> type[APIRoute]:
    """A route class whose forms may have so many pictures, a video and a sound; Starlette's own limit is 1000 files."""
    max_files = max_frames + 2

    class FormRequest(Request):
        def form(self, **limits: Any) -> Any:
            return super().form(**{**limits, "max_files": max_files})

    class FormRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handler(request: Request) -> Response:
                try:
                    return await handle(FormRequest(request.scope, request.receive))
                except HTTPException as error:
                    if not str(error.detail).startswith("Too many files"):
                        raise
                    detail = f"more than {max_frames} pictures"
                    raise RequestError(
                        status=413, kind="too_large", detail=detail, limit="max_frames", field="frames"
                    ) from None

            return handler

    return FormRoute
