"""Which web pages may use the endpoint through a visitor's browser.

An endpoint without keys trusts whoever reaches its loopback address, and every web page reaches it through the browser
of somebody on this machine: directly, by a form that it sends here, or by a name of its own that it lets point to
127.0.0.1 (DNS rebinding). So `Host` and `Origin` have to be this endpoint's. With keys, a page would need one.
"""

from urllib.parse import urlsplit

from fastapi import FastAPI
from sdavs_platform.config.serve import ServeConfig
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from sdavs_serve.errors import RequestError
from sdavs_serve.http.keys import is_loopback, keys_required
from sdavs_serve.http.problems import REQUEST_ID_HEADER, problem_response

LOOPBACK = ("127.0.0.1", "localhost", "::1")

EXPOSED = (
    "X-Model-Version",
    "X-Data-Digest",
    "X-Result-Reused",
    "Location",
    "Retry-After",
    REQUEST_ID_HEADER,
)
"""Response headers that scripts of allowed origins may read."""


class HostCheck:
    """ASGI middleware: 421 for another host's name, 403 for another origin's request."""

    def __init__(self, app: ASGIApp, *, hosts: tuple[str, ...], origins: tuple[str, ...]) -> None:
        """
        Args:
            app: what to protect.
            hosts: names that `Host` and `Origin` may have, without port.
            origins: further origins, such as https://tool.example.
        """
        self._app = app
        self._hosts = hosts
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or respond with 403 or 421."""
        error = self._refusal(Headers(scope=scope)) if scope["type"] == "http" else None
        if error is None:
            await self._app(scope, receive, send)
            return
        await problem_response(error, scope)(scope, receive, send)

    def _refusal(self, headers: Headers) -> RequestError | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if _name(f"//{host}") not in self._hosts:
            detail = f"this endpoint is {' or '.join(self._hosts)}; serve.allowed_hosts adds names"
            return RequestError(status=421, kind="wrong_host", detail=detail, limit="allowed_hosts")
        if origin is None or origin in self._origins or origin in (f"http://{host}", f"https://{host}"):
            return None
        name = _name(origin)
        if name in self._hosts and not is_loopback(name):
            return (
                None  # behind a proxy that changes Host; at a loopback name, other ports are other programs
            )
        detail = (
            "requests from pages of other origins are not accepted; serve.cors_origins names those that are"
        )
        return RequestError(status=403, kind="wrong_origin", detail=detail, limit="cors_origins")


def _name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def add_origins(app: FastAPI, config: ServeConfig) -> None:
    """Check `Host` and `Origin` of a loopback address without keys, and let `cors_origins` in.

    Outside of authentication, because browsers send preflight requests without a key.
    """
    if is_loopback(config.host) and not keys_required(config):
        hosts = (*dict.fromkeys((*LOOPBACK, config.host, *config.allowed_hosts)),)
        app.add_middleware(HostCheck, hosts=hosts, origins=config.cors_origins)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Accept", "Cache-Control", "X-Model-Version"],
            expose_headers=list(EXPOSED),
            max_age=600,
        )
