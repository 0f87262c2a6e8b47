"""The base class of both clients: the requests, and when they are sent again."""

import contextlib
import io
import json
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx
from PIL import Image

from sdavs_serve.encoding.responses import decode_rle
from sdavs_serve.rollout.state import RolloutState
from sdavs_serve.schema import FrameMask, JobStatus, ModelStatus, Problem, SegmentAnswer

T = TypeVar("T")

Files = list[tuple[str, str | Path]]
"""Form fields, each with the path of a file."""

RETRIED = (429, 502, 503)
"""Statuses after which the same request may succeed: the endpoint refused it before it did anything."""

JOB_POLL_S = 1.0


class EndpointError(Exception):
    """The endpoint refused the request; `problem` has the reason and the limit or field."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}")
        self.problem = problem


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a request is."""

    direction: Literal["upload", "download"]
    num_bytes: int
    total: int | None
    """None if the endpoint does not say."""


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Retries:
    """When a request is sent again."""

    attempts: int = 4
    """At most so many."""
    max_pause_s: float = 60.0
    """A longer `Retry-After` is an error: a key's limit for the day, for example."""

    def pause_s(self, attempt: int, retry_after: str | None) -> float | None:
        """How long to wait after attempt number `attempt`, counted from 1; None: give up.

        As long as `Retry-After` requires, else 0.5 s, doubled with each attempt.
        """
        if attempt >= self.attempts:
            return None
        asked = float(retry_after) if retry_after and retry_after.isdigit() else 0.5 * 2 ** (attempt - 1)
        return asked if asked <= self.max_pause_s else None


@dataclass(kw_only=True)
class Call:
    method: str
    path: str
    files: Files = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    target: str | Path | None = None
    """File that the response is written to."""
    is_repeatable: bool = True
    """It may be sent again after the connection was lost; a job would be there twice."""


Calls = Generator[Call, bytes, T]
"""A request as the calls it consists of: `Client` and `AsyncClient` send them, each in its own way."""


class _Watched(io.RawIOBase):
    """A file that reports how far it was read."""

    def __init__(self, path: str | Path, report: Callable[[int], None]) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - closed with this object
        self._report = report

    def fileno(self) -> int:
        return self._file.fileno()

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self._report(len(content))
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


class BaseClient:
    """The requests of an endpoint, without sending them; for `Client` and `AsyncClient`."""

    def __init__(
        self, *, version: int | None, retries: Retries | None, on_progress: OnProgress | None
    ) -> None:
        self._pin = {} if version is None else {"X-Model-Version": str(version)}
        self._retries = retries or Retries()
        self._on_progress = on_progress or (lambda progress: None)

    def _model(self) -> Calls[ModelStatus]:
        return ModelStatus.model_validate_json((yield Call(method="GET", path="/v1/model")))

    def _rollout(self) -> Calls[RolloutState]:
        return RolloutState.model_validate_json((yield Call(method="GET", path="/v1/rollout")))

    def _segment(self, files: Files, fields: dict[str, Any]) -> Calls[SegmentAnswer]:
        return SegmentAnswer.model_validate_json((yield self._clip(files, fields)))

    def _save(self, files: Files, accept: str, path: str | Path, fields: dict[str, Any]) -> Calls[None]:
        yield self._clip(files, fields, accept=accept, target=path)

    def _submit(self, files: Files, accept: Sequence[str], fields: dict[str, Any]) -> Calls[JobStatus]:
        call = self._clip(files, fields, path="/v1/jobs", accept=", ".join(accept))
        call.is_repeatable = False
        return JobStatus.model_validate_json((yield call))

    def _job(self, job_id: str) -> Calls[JobStatus]:
        return JobStatus.model_validate_json((yield Call(method="GET", path=f"/v1/jobs/{job_id}")))

    def _save_result(self, job_id: str, path: str | Path, accept: str) -> Calls[None]:
        yield Call(method="GET", path=f"/v1/jobs/{job_id}/result", headers={"Accept": accept}, target=path)

    def _result(self, job_id: str) -> Calls[SegmentAnswer]:
        headers = {"Accept": "application/json"}
        content = yield Call(method="GET", path=f"/v1/jobs/{job_id}/result", headers=headers)
        return SegmentAnswer.model_validate_json(content)

    def _cancel(self, job_id: str) -> Calls[None]:
        yield Call(method="DELETE", path=f"/v1/jobs/{job_id}")

    def _clip(
        self,
        files: Files,
        fields: dict[str, Any],
        *,
        path: str = "/v1/segment",
        accept: str = "application/json",
        target: str | Path | None = None,
    ) -> Call:
        text = {name: _as_text(value) for name, value in fields.items() if value is not None}
        headers = {"Accept": accept} | self._pin
        return Call(method="POST", path=path, files=files, fields=text, headers=headers, target=target)

    @contextlib.contextmanager
    def _request(self, call: Call) -> Iterator[dict[str, Any]]:
        """Arguments for httpx; the files are open within the context."""
        request: dict[str, Any] = {"method": call.method, "url": call.path, "headers": call.headers}
        with ExitStack() as opened:
            if call.files:
                total, sent = sum(os.path.getsize(path) for _, path in call.files), 0

                def report(num_bytes: int) -> None:
                    nonlocal sent
                    sent += num_bytes
                    self._on_progress(Progress(direction="upload", num_bytes=sent, total=total))

                request["data"] = call.fields
                request["files"] = [
                    (name, (Path(path).name, opened.enter_context(_Watched(path, report))))
                    for name, path in call.files
                ]
            yield request

    def _pause_after(
        self, call: Call, attempt: int, *, answer: httpx.Response | None, error: Exception | None
    ) -> float | None:
        """Seconds until the call is sent again; None: not."""
        if answer is not None:
            return (
                self._retries.pause_s(attempt, answer.headers.get("Retry-After"))
                if answer.status_code in RETRIED
                else None
            )
        was_refused = isinstance(error, httpx.ConnectError)
        if was_refused or (call.is_repeatable and not isinstance(error, httpx.TimeoutException)):
            return self._retries.pause_s(attempt, None)
        return None

    @contextlib.contextmanager
    def _download(self, call: Call, answer: httpx.Response) -> Iterator[Callable[[bytes], None]]:
        """Where the pieces of a response go: to the target, which appears when it is complete."""
        length = answer.headers.get("Content-Length", "")
        total, received = int(length) if length.isdigit() else None, 0
        assert call.target is not None
        part = Path(call.target).with_name(Path(call.target).name + ".part")
        try:
            with part.open("wb") as file:

                def write(piece: bytes) -> None:
                    nonlocal received
                    file.write(piece)
                    received += len(piece)
                    self._on_progress(Progress(direction="download", num_bytes=received, total=total))

                yield write
            part.replace(call.target)
        finally:
            part.unlink(missing_ok=True)


def save_mask(frame: FrameMask, path: str | Path) -> None:
    """Write the mask of a frame as a png of 0 and 255."""
    Image.fromarray(decode_rle(frame.rle) * 255).save(path)


def bearer(api_key: str | None) -> dict[str, str]:
    """The header of an API key."""
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def video_files(video: str | Path, audio: str | Path | None = None) -> Files:
    """The form fields of a video, and of a sound that replaces its own."""
    return [("video", video)] + ([("audio", audio)] if audio else [])


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def frames_of(line: str) -> list[FrameMask]:
    """The frames of a line of a progressive response. Raises EndpointError for a line with a problem."""
    content = json.loads(line)
    if problem := content.get("problem"):
        raise EndpointError(Problem.model_validate(problem))
    return [FrameMask.model_validate(frame) for frame in content.get("frames", [])]


def checked(status: JobStatus) -> JobStatus:
    """The status of a job that has ended. Raises EndpointError if it has failed."""
    if status.problem:
        raise EndpointError(status.problem)
    return status


def error_of(answer: httpx.Response | None) -> EndpointError:
    """The error of a response that was read."""
    assert answer is not None
    if answer.headers.get("content-type") == "application/problem+json":
        return EndpointError(Problem.model_validate_json(answer.content))
    # Not from the endpoint: Serve's proxy answers in plain text while no application runs.
    return EndpointError(
        Problem(
            type="about:blank",
            title=answer.reason_phrase,
            status=answer.status_code,
            detail=answer.text[:200],
        )
    )
