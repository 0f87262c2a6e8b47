"""Errors of a request, as exceptions with their HTTP status and the limit or field at fault."""

from typing import Literal

MediaFault = Literal["unsupported", "too_large", "no_sound", "corrupt", "invalid"]

STATUS_OF_KIND: dict[MediaFault, int] = {
    "unsupported": 415,
    "too_large": 413,
    "no_sound": 422,
    "corrupt": 422,
    "invalid": 422,
}


class RequestError(Exception):
    """A refused request. The ingress turns it into an `application/problem+json` response."""

    def __init__(
        self,
        *,
        status: int,
        kind: str,
        detail: str,
        limit: str | None = None,
        field: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        """
        Args:
            status: HTTP status code.
            kind: stable name for programs, the last part of the problem's `type`.
            detail: one sentence for people.
            limit: key of `ServeConfig`, or limit of an API key, that was exceeded.
            field: form field at fault.
            retry_after_s: when a new attempt makes sense, in seconds.
        """
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.limit = limit
        self.field = field
        self.retry_after_s = retry_after_s


class MediaError(RequestError):
    """An upload that cannot be read as a clip: 413 (too large), 415 (unsupported) or 422 (everything else)."""

    def __init__(self, kind: MediaFault, detail: str, *, field: str, limit: str | None = None) -> None:
        super().__init__(status=STATUS_OF_KIND[kind], kind=kind, detail=detail, limit=limit, field=field)


class Busy(RequestError):
    """`max_requests` requests are being processed already: 429."""

    def __init__(self, max_requests: int) -> None:
        super().__init__(
            status=429,
            kind="busy",
            detail=f"{max_requests} requests are being processed already; try again shortly",
            limit="max_requests",
            retry_after_s=1,
        )


class NoModel(RequestError):
    """No model is available at the moment: 503."""

    def __init__(self, detail: str, *, limit: str | None = None, retry_after_s: int = 5) -> None:
        super().__init__(status=503, kind="no_model", detail=detail, limit=limit, retry_after_s=retry_after_s)
