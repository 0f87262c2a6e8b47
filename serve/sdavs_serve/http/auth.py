"""Authentication and authorization: decided by path and key before a body is read."""

import base64
import hashlib
import hmac
import time
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from sdavs_serve.errors import RequestError
from sdavs_serve.http.keys import KeyFile
from sdavs_serve.http.keys import Scope as KeyScope
from sdavs_serve.http.problems import problem_response

NUDGE = "/v1/rollout/nudge"

SCOPE_OF_PATH: dict[str, KeyScope] = {"/v1/segment": "segment", "/v1/model": "segment"}
"""Everything else below /v1, and /metrics, is for admins. Probes and pages are open."""

MAX_AGE_S = 300.0
"""How old a webhook's signature may be."""


class Authentication:
    """ASGI middleware: 401 without a key, 403 with one that is not enough."""

    def __init__(self, app: ASGIApp, *, keys: KeyFile, webhook_secret: Path | None) -> None:
        """
        Args:
            keys: the accepted keys.
            webhook_secret: file with the secret that MLflow signs its webhooks with; it replaces a key at NUDGE.
        """
        self._app = app
        self._keys = keys
        self._webhook_secret = webhook_secret

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
        if path == NUDGE and self._webhook_secret and "x-mlflow-signature" in headers:
            return None  # checked against the body, by the handler
        held = self._keys.scope_of(headers.get("authorization", "").removeprefix("Bearer ").strip())
        if held is None:
            detail = "send Authorization: Bearer and a key; an admin of this endpoint makes one"
            return RequestError(status=401, kind="no_key", detail=detail)
        if held not in (needed, "admin"):
            detail = f"this key is for {held}; {path} needs one for {needed}"
            return RequestError(status=403, kind="forbidden", detail=detail)
        return None


def check_webhook(headers: Headers, body: bytes, *, secret_file: Path) -> None:
    """Check that MLflow signed a webhook with our secret, recently.

    MLflow's header is `v1,` and the base64 of HMAC-SHA256 over "delivery id.timestamp.body".

    Raises:
        RequestError: 401, the signature is wrong or old.
    """
    timestamp = headers.get("x-mlflow-timestamp", "")
    signed = f"{headers.get('x-mlflow-delivery-id', '')}.{timestamp}.".encode() + body
    secret = secret_file.read_text().strip().encode()
    expected = "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
    genuine = hmac.compare_digest(headers.get("x-mlflow-signature", ""), expected)
    recent = timestamp.isdigit() and abs(time.time() - int(timestamp)) < MAX_AGE_S
    if not (genuine and recent):
        raise RequestError(status=401, kind="no_key", detail="the webhook's signature is wrong or old")
