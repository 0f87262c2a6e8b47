"""Turns every error into an `application/problem+json` response (RFC 9457)."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Message, Scope, Send

from sdavs_serve.errors import RequestError
from sdavs_serve.schema import Problem

MEDIA_TYPE = "application/problem+json"

METHODS = ("HEAD", "GET", "POST", "PUT", "PATCH", "DELETE")

REQUEST_ID_HEADER = "x-request-id"
"""Serve's proxy adds it to every request without one, and to every response."""


def problem_of(error: RequestError) -> Problem:
    """The document that describes an error."""
    return Problem(
        type=f"urn:sdavs:problem:{error.kind}",
        title=HTTPStatus(error.status).phrase,
        status=error.status,
        detail=error.detail,
        limit=error.limit,
        field=error.field,
    )


def problem_response(error: RequestError, scope: Scope) -> Response:
    """The HTTP response for an error."""
    request_id = Headers(scope=scope).get(REQUEST_ID_HEADER)
    problem = problem_of(error).model_copy(update={"request_id": request_id})
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(
        problem.model_dump_json(exclude_none=True), error.status, headers=headers, media_type=MEDIA_TYPE
    )


class SeenStatus:
    """Passes an ASGI app's messages on and keeps the status of its response.

    Args:
        send: where the messages go.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 500
        """Until the response begins, what a client gets that the app leaves without one."""
        self.complete = False
        """The whole response has been passed on."""

    async def __call__(self, message: Message) -> None:
        """ASGI's `send`."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif not message.get("more_body", False):
            self.complete = True
        await self._send(message)


def handle_problems(app: FastAPI) -> None:
    """Make `app` respond with problems to its own errors, to FastAPI's and to unknown paths."""

    @app.exception_handler(RequestError)
    async def of_ours(request: Request, error: RequestError) -> Response:
        return problem_response(error, request.scope)

    @app.exception_handler(RequestValidationError)
    async def of_a_field(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        ours = RequestError(
            status=422, kind="invalid", detail=f"{field}: {first['msg']}", field=field or None
        )
        return problem_response(ours, request.scope)

    @app.exception_handler(Exception)
    async def of_the_unforeseen(request: Request, error: Exception) -> Response:
        # Starlette logs the exception; the client does not get to see it.
        ours = RequestError(
            status=500, kind="internal", detail="internal error of the endpoint; it has been logged"
        )
        return problem_response(ours, request.scope)

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        ours = RequestError(status=error.status_code, kind="http", detail=str(error.detail))
        answer = problem_response(ours, request.scope)
        answer.headers.update(error.headers or {})
        if error.status_code == 405:
            answer.headers["Allow"] = ", ".join(_allowed(app, request.scope))
        return answer


def _allowed(app: FastAPI, scope: Scope) -> list[str]:
    """The methods of a path: Starlette names only those of its first route and ignores `Conformance`."""
    found = [
        method
        for method in METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in app.routes)
    ]
    return ["HEAD", *found] if "GET" in found and "HEAD" not in found else found
