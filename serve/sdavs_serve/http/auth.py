"""Authentication and authorization: decided by path and key before a body is read."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from sdavs_serve.errors import RequestError
from sdavs_serve.http.keys import KeyFile
from sdavs_serve.http.keys import Scope as KeyScope
from sdavs_serve.http.problems import problem_response
from sdavs_serve.http.webhook import is_plausible

NUDGE = "/v1/rollout/nudge"

SCOPE_OF_PATH: dict[str, KeyScope] = {"/v1/segment": "segment", "/v1/model": "segment"}
"""Everything else below /v1, and /metrics, is for admins. Probes and pages are open."""


class Authentication:
    """ASGI middleware: 401 without a key, 403 with one that is not enough."""

    def __init__(self, app: ASGIApp, *, keys: KeyFile, accepts_webhooks: bool = False) -> None:
        """
        Args:
            keys: the accepted keys.
            accepts_webhooks: a webhook with a plausible signature needs no key at NUDGE, where it is checked.
        """
        self._app = app
        self._keys = keys
        self._accepts_webhooks = accepts_webhooks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer 401 or 403."""
        error = self._refusal(scope) if scope["type"] == "http" else None
        if error is None:
            await self._app(scope, receive, send)
            return
        await problem_response(error, scope)(scope, receive, send)

    def _refusal(self, scope: Scope) -> RequestError | None:
        path, headers = scope["path"], Headers(scope=scope)
        if not path.startswith("/v1/") and path != "/metrics":
            return None
        needed = SCOPE_OF_PATH.get(path, "admin")
        if path == NUDGE and self._accepts_webhooks and is_plausible(headers):
            return None  # the handler checks the signature, which needs the body
        scheme, _, token = headers.get("authorization", "").partition(" ")
        held = self._keys.scope_of(token.strip()) if scheme.lower() == "bearer" else None
        if held is None:
            detail = "send Authorization: Bearer and a key; an admin of this endpoint makes one"
            return RequestError(status=401, kind="no_key", detail=detail)
        if held not in (needed, "admin"):
            detail = f"this key is for {held}; {path} needs one for {needed}"
            return RequestError(status=403, kind="forbidden", detail=detail)
        return None
