"""Authentication, authorization and the limits of single keys: decided by path and key before a body is read."""

import time
from datetime import UTC, datetime

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from sdavs_serve.errors import RequestError
from sdavs_serve.http.key_limits import KeyLimits
from sdavs_serve.http.keys import Key, KeyFile
from sdavs_serve.http.keys import Scope as KeyScope
from sdavs_serve.http.problems import SeenStatus, problem_response
from sdavs_serve.http.webhook import is_plausible

NUDGE = "/v1/rollout/nudge"

SCOPE_OF_PATH: dict[str, KeyScope] = {"/v1/segment": "segment", "/v1/model": "segment"}
"""So are jobs. Everything else below /v1, and /metrics, is for admins. Probes and pages are open."""

JOBS = "/v1/jobs"
"""A job is seen by the key that sent it and by admins."""

WORK = {("POST", "/v1/segment"), ("POST", JOBS)}
"""What the limits of a key count: requests that the model works for."""

KEY_OF_REQUEST = "sdavs.key"
"""Entry of the ASGI scope with the id of the key, for metrics and logs."""

SCOPE_OF_REQUEST = "sdavs.scope"
"""Entry of the ASGI scope with what the key is for."""


class Authentication:
    """ASGI middleware: 401 without a key, 403 with one that is not enough, 429 with one that has used its limits."""

    def __init__(self, app: ASGIApp, *, keys: KeyFile, accepts_webhooks: bool = False) -> None:
        """
        Args:
            keys: the accepted keys.
            accepts_webhooks: a webhook with a plausible signature needs no key at NUDGE, where it is checked.
        """
        self._app = app
        self._keys = keys
        self._accepts_webhooks = accepts_webhooks
        self._limits = KeyLimits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or respond with 401, 403 or 429."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            key = self._key(scope)
            limited = key is not None and (scope["method"], scope["path"]) in WORK
            if key and limited:
                self._limits.begin(key)
        except RequestError as error:
            await problem_response(error, scope)(scope, receive, send)
            return
        if key is None or not limited:
            await self._app(scope, receive, send)
            return
        seen = SeenStatus(send)
        try:
            await self._app(scope, receive, seen)
        finally:
            self._limits.end(key, status=seen.status)

    def _key(self, scope: Scope) -> Key | None:
        """The key of a request, or None where none is needed. Raises RequestError."""
        path, headers = scope["path"], Headers(scope=scope)
        if not path.startswith("/v1/") and path != "/metrics":
            return None
        is_job = path == JOBS or path.startswith(f"{JOBS}/")
        needed = "segment" if is_job else SCOPE_OF_PATH.get(path, "admin")
        if path == NUDGE and self._accepts_webhooks and is_plausible(headers):
            return None  # the handler checks the signature, which needs the body
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = self._keys.find(token.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            detail = "send Authorization: Bearer and a key; an admin of this endpoint makes one"
            raise RequestError(status=401, kind="no_key", detail=detail)
        scope[KEY_OF_REQUEST], scope[SCOPE_OF_REQUEST] = key.id, key.scope
        if key.expires is not None and time.time() >= key.expires:
            at = datetime.fromtimestamp(key.expires, UTC).isoformat(timespec="seconds")
            raise RequestError(status=401, kind="key_expired", detail=f"key {key.id} expired at {at}")
        if key.scope not in (needed, "admin"):
            detail = f"this key is for {key.scope}; {path} needs one for {needed}"
            raise RequestError(status=403, kind="forbidden", detail=detail)
        return key
