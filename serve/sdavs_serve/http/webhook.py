"""MLflow's webhook, which may call POST /v1/rollout/nudge with a signature instead of an API key.

The signature covers the body, so the body is read from callers who have not proved anything yet: only if the headers
are plausible, only little of it, only for seconds, and only for a few callers at once.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import time
from pathlib import Path

from fastapi import Request
from starlette.datastructures import Headers

from sdavs_serve.errors import RequestError

MAX_AGE_S = 300.0
"""How old a signature may be."""

MAX_BYTES = 64_000

READ_S = 5.0
"""Longest time for reading one body."""

MAX_READING = 4
"""Bodies that are read at once."""

SIGNATURE = "x-mlflow-signature"


def is_plausible(headers: Headers) -> bool:
    """Whether the headers look like those of a recent webhook of MLflow with a small body."""
    version, _, signature = headers.get(SIGNATURE, "").partition(",")
    try:
        digest = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        return False
    length = headers.get("content-length", "")
    sized = length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= MAX_BYTES
    return version == "v1" and len(digest) == hashlib.sha256().digest_size and sized and _is_recent(headers)


class Webhooks:
    """Checks the webhooks of one ingress replica."""

    def __init__(self, secret_file: Path) -> None:
        """
        Args:
            secret_file: holds the secret that MLflow signs with.
        """
        self._secret_file = secret_file
        self._num_reading = 0

    async def check(self, request: Request) -> None:
        """Read the body of a plausible request and check its signature.

        Raises:
            RequestError: 401, the signature is wrong or old; 408, the body is slow; 413, it is large; 429, too many
                bodies are being read.
        """
        if self._num_reading >= MAX_READING:
            detail = f"{MAX_READING} webhooks are being received already; try again shortly"
            raise RequestError(status=429, kind="busy", detail=detail, retry_after_s=1)
        self._num_reading += 1
        try:
            async with asyncio.timeout(READ_S):
                body = await _small_body(request)
        except TimeoutError:
            detail = f"the body of the webhook takes longer than {READ_S:g} s"
            raise RequestError(status=408, kind="slow_upload", detail=detail) from None
        finally:
            self._num_reading -= 1
        check_signature(request.headers, body, secret_file=self._secret_file)


def check_signature(headers: Headers, body: bytes, *, secret_file: Path) -> None:
    """Check that MLflow signed a webhook with our secret, recently.

    MLflow's header is `v1,` and the base64 of HMAC-SHA256 over "delivery id.timestamp.body".

    Raises:
        RequestError: 401, the signature is wrong or old.
    """
    signed = f"{headers.get('x-mlflow-delivery-id', '')}.{headers.get('x-mlflow-timestamp', '')}."
    secret = secret_file.read_text().strip().encode()
    digest = hmac.new(secret, signed.encode() + body, hashlib.sha256).digest()
    expected = b"v1," + base64.b64encode(digest)
    genuine = hmac.compare_digest(headers.get(SIGNATURE, "").encode(), expected)
    if not (genuine and _is_recent(headers)):
        raise RequestError(status=401, kind="no_key", detail="the webhook's signature is wrong or old")


def _is_recent(headers: Headers) -> bool:
    timestamp = headers.get("x-mlflow-timestamp", "")
    plain = timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 20
    return plain and abs(time.time() - int(timestamp)) < MAX_AGE_S


async def _small_body(request: Request) -> bytes:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BYTES:
            detail = f"a webhook of more than {MAX_BYTES} bytes"
            raise RequestError(status=413, kind="too_large", detail=detail)
    return body
