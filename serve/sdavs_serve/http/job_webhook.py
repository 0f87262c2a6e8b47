"""Calls the webhook of a job that has ended, signed as MLflow signs its own."""

import asyncio
import base64
import hashlib
import hmac
import logging
import time
import uuid
from pathlib import Path

import httpx
from sdavs_platform.config.serve import JobsConfig

from sdavs_serve.errors import RequestError
from sdavs_serve.http.job_table import Job

logger = logging.getLogger("ray.serve")

PAUSES_S = (1.0, 10.0)
"""Before the second and the third attempt."""

TIMEOUT_S = 10.0


def check_address(url: str, config: JobsConfig) -> None:
    """Check that a webhook may be called: hosts are named by the endpoint's config, never by a client alone.

    Raises:
        RequestError: 422, it is no http address, or its host is not allowed.
    """
    try:
        address = httpx.URL(url)  # parsed as it will be called
        is_allowed = address.scheme in ("http", "https") and address.host in config.webhook_hosts
    except httpx.InvalidURL:
        is_allowed = False
    if not is_allowed:
        allowed = ", ".join(config.webhook_hosts) or "none"
        detail = f"webhook: allowed are http and https addresses of these hosts: {allowed}"
        raise RequestError(
            status=422, kind="invalid", detail=detail, field="webhook", limit="jobs.webhook_hosts"
        )


def signature(secret: str, *, delivery: str, timestamp: str, body: bytes) -> str:
    """`v1,` and the base64 of HMAC-SHA256 over "delivery.timestamp.body"."""
    digest = hmac.new(secret.encode(), f"{delivery}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


class JobWebhooks:
    """Sends the status of jobs."""

    def __init__(
        self,
        config: JobsConfig,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        pauses_s: tuple[float, ...] = PAUSES_S,
    ) -> None:
        """
        Args:
            config: names the secret's file.
            transport: sends the requests; None: httpx's own.
            pauses_s: before each further attempt.
        """
        self._config = config
        self._transport = transport
        self._pauses_s = pauses_s

    async def __call__(self, job: Job) -> None:
        """Send the status of a job, up to three times. A job whose webhook cannot be reached stays as it is."""
        assert job.webhook
        assert self._config.webhook_secret_file
        secret = Path(self._config.webhook_secret_file).read_text().strip()
        body, delivery = job.status.model_dump_json().encode(), uuid.uuid4().hex
        # Neither redirects nor proxies of the environment: the address was checked, others were not.
        async with httpx.AsyncClient(
            timeout=TIMEOUT_S, transport=self._transport, trust_env=False, follow_redirects=False
        ) as http:
            for pause_s in (*self._pauses_s, None):
                timestamp = str(int(time.time()))
                headers = {
                    "Content-Type": "application/json",
                    "X-SDAVS-Delivery": delivery,
                    "X-SDAVS-Timestamp": timestamp,
                    "X-SDAVS-Signature": signature(secret, delivery=delivery, timestamp=timestamp, body=body),
                }
                try:
                    answer = await http.post(job.webhook, content=body, headers=headers)
                    if answer.is_success:
                        return
                    trouble = f"status {answer.status_code}"
                except httpx.HTTPError as error:
                    trouble = type(error).__name__
                if pause_s is not None:
                    await asyncio.sleep(pause_s)
        logger.warning("the webhook of job %s was not delivered: %s", job.id, trouble)
