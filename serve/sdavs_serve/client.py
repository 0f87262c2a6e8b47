"""Typed clients of the endpoint: `Client`, and `AsyncClient` for asyncio."""

import asyncio
import contextlib
import io
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import httpx
from PIL import Image

from sdavs_serve.encoding.responses import decode_rle
from sdavs_serve.rollout.state import RolloutState
from sdavs_serve.schema import ENDED_JOB, FrameMask, JobStatus, ModelStatus, Problem, SegmentAnswer

T = TypeVar("T")

Files = list[tuple[str, str | Path]]
"""Form fields, each with the path of a file."""

RETRIED = (429, 502, 503)
"""Statuses after which the same request may succeed: the endpoint refused it before it did anything."""

JOB_POLL_S = 1.0


class EndpointError(Exception):
    """The endpoint refused; `problem` says what, why and which limit or field."""

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

        As long as `Retry-After` asks, else 0.5 s, doubled with each attempt.
        """
        if attempt >= self.attempts:
            return None
        asked = float(retry_after) if retry_after and retry_after.isdigit() else 0.5 * 2 ** (attempt - 1)
        return asked if asked <= self.max_pause_s else None


@dataclass(kw_only=True)
class _Call:
    method: str
    path: str
    files: Files = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    target: str | Path | None = None
    """File that the response is written to."""
    is_repeatable: bool = True
    """It may be sent again after the connection was lost; a job would be there twice."""


Calls = Generator[_Call, bytes, T]
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


class _Base:
    """What both clients have in common: which requests there are, and when they are sent again."""

    def __init__(self, *, version: int | None, retries: Retries, on_progress: OnProgress | None) -> None:
        self._pin = {} if version is None else {"X-Model-Version": str(version)}
        self._retries = retries
        self._on_progress = on_progress or (lambda progress: None)

    def _model(self) -> Calls[ModelStatus]:
        return ModelStatus.model_validate_json((yield _Call(method="GET", path="/v1/model")))

    def _rollout(self) -> Calls[RolloutState]:
        return RolloutState.model_validate_json((yield _Call(method="GET", path="/v1/rollout")))

    def _segment(self, files: Files, fields: dict[str, Any]) -> Calls[SegmentAnswer]:
        return SegmentAnswer.model_validate_json((yield self._clip(files, fields)))

    def _save(self, files: Files, accept: str, path: str | Path, fields: dict[str, Any]) -> Calls[None]:
        yield self._clip(files, fields, accept=accept, target=path)

    def _submit(self, files: Files, accept: Sequence[str], fields: dict[str, Any]) -> Calls[JobStatus]:
        call = self._clip(files, fields, path="/v1/jobs", accept=", ".join(accept))
        call.is_repeatable = False
        return JobStatus.model_validate_json((yield call))

    def _job(self, job_id: str) -> Calls[JobStatus]:
        return JobStatus.model_validate_json((yield _Call(method="GET", path=f"/v1/jobs/{job_id}")))

    def _save_result(self, job_id: str, path: str | Path, accept: str) -> Calls[None]:
        yield _Call(method="GET", path=f"/v1/jobs/{job_id}/result", headers={"Accept": accept}, target=path)

    def _result(self, job_id: str) -> Calls[SegmentAnswer]:
        headers = {"Accept": "application/json"}
        content = yield _Call(method="GET", path=f"/v1/jobs/{job_id}/result", headers=headers)
        return SegmentAnswer.model_validate_json(content)

    def _cancel(self, job_id: str) -> Calls[None]:
        yield _Call(method="DELETE", path=f"/v1/jobs/{job_id}")

    def _clip(
        self,
        files: Files,
        fields: dict[str, Any],
        *,
        path: str = "/v1/segment",
        accept: str = "application/json",
        target: str | Path | None = None,
    ) -> _Call:
        text = {name: _as_text(value) for name, value in fields.items() if value is not None}
        headers = {"Accept": accept} | self._pin
        return _Call(method="POST", path=path, files=files, fields=text, headers=headers, target=target)

    @contextlib.contextmanager
    def _request(self, call: _Call) -> Iterator[dict[str, Any]]:
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
        self, call: _Call, attempt: int, *, answer: httpx.Response | None, error: Exception | None
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
    def _download(self, call: _Call, answer: httpx.Response) -> Iterator[Callable[[bytes], None]]:
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


class Client(_Base):
    """Calls one endpoint; a context manager.

    A request that is refused for load (429, 503) or does not reach the endpoint is sent again, when `Retry-After` says
    or after a growing pause.
    """

    def __init__(
        self,
        address: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        version: int | None = None,
        timeout_s: float = 180.0,
        retries: Retries = Retries(),
        on_progress: OnProgress | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """
        Args:
            address: the endpoint, as `sdavs_serve.deployment.deploy` returns it.
            api_key: where the endpoint requires one; `jobs/keys.py` makes them.
            version: request this version of the model; the endpoint refuses if it is not loaded.
            timeout_s: longest wait for a response.
            retries: when a request is sent again.
            on_progress: called while bodies are sent and received.
            transport: sends the requests; None: httpx's own.
        """
        super().__init__(version=version, retries=retries, on_progress=on_progress)
        self._http = httpx.Client(
            base_url=address, timeout=timeout_s, headers=_bearer(api_key), transport=transport
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def model(self) -> ModelStatus:
        """Which model serves. Raises EndpointError if none does."""
        return self._run(self._model())

    def rollout(self) -> RolloutState:
        """Progress of the change to another version; needs a key for admins where keys are required."""
        return self._run(self._rollout())

    def segment(
        self,
        video: str | Path,
        *,
        audio: str | Path | None = None,
        fps: float | None = None,
        threshold: float = 0.5,
    ) -> SegmentAnswer:
        """Masks of a video with sound.

        Args:
            video: mp4, mov, webm, mkv, avi or ts.
            audio: replaces the video's own sound.
            fps: frames sampled a second; None leaves it to the endpoint.
            threshold: probability above which a pixel belongs to the mask.

        Raises:
            EndpointError: the endpoint refused.
        """
        return self._run(self._segment(_video(video, audio), {"fps": fps, "threshold": threshold}))

    def segment_windows(
        self,
        video: str | Path,
        *,
        audio: str | Path | None = None,
        fps: float | None = None,
        threshold: float = 0.5,
    ) -> Iterator[list[FrameMask]]:
        """The masks of a video as they are made, window by window; arguments and errors as `segment`."""
        fields = {"fps": fps, "threshold": threshold}
        call = self._clip(_video(video, audio), fields, accept="application/x-ndjson")
        with self._request(call) as request, self._http.stream(**request) as answer:
            if not answer.is_success:
                answer.read()
                raise _error(answer)
            for line in answer.iter_lines():
                if frames := _frames_of(line):
                    yield frames

    def segment_frames(
        self,
        frames: Sequence[str | Path],
        audio: str | Path,
        *,
        fps: float | None = None,
        threshold: float = 0.5,
    ) -> SegmentAnswer:
        """Masks of pictures with a sound.

        Args:
            frames: png, jpg or WebP of one size, in order of time.
            audio: wav, flac, ogg, mp3 or a video's sound.
            fps: frames for each second of sound; None leaves it to the endpoint.
            threshold: probability above which a pixel belongs to the mask.

        Raises:
            EndpointError: the endpoint refused.
        """
        files: Files = [*(("frames", frame) for frame in frames), ("audio", audio)]
        return self._run(self._segment(files, {"fps": fps, "threshold": threshold}))

    def save_masks(
        self,
        video: str | Path,
        path: str | Path,
        *,
        fps: float | None = None,
        threshold: float = 0.5,
        overlay: bool = False,
    ) -> None:
        """Write all masks, or overlays, as png files in a zip with `segmentation.json`. Raises EndpointError."""
        fields = {"fps": fps, "threshold": threshold, "overlay": overlay}
        self._run(self._save(_video(video), "application/zip", path, fields))

    def save_overlay_video(
        self, video: str | Path, path: str | Path, *, fps: float | None = None, threshold: float = 0.5
    ) -> None:
        """Write the overlay with the video's own sound as mp4. Raises EndpointError."""
        self._run(self._save(_video(video), "video/mp4", path, {"fps": fps, "threshold": threshold}))

    def save_overlay_picture(
        self,
        video: str | Path,
        path: str | Path,
        *,
        frame: int = 0,
        fps: float | None = None,
        threshold: float = 0.5,
    ) -> None:
        """Write one frame with its mask drawn over it as png. Raises EndpointError."""
        fields = {"fps": fps, "threshold": threshold, "frame": frame, "overlay": True}
        self._run(self._save(_video(video), "image/png", path, fields))

    def submit(
        self,
        video: str | Path,
        *,
        accept: Sequence[str] = ("application/json",),
        audio: str | Path | None = None,
        fps: float | None = None,
        threshold: float = 0.5,
        overlay: bool = False,
        webhook: str | None = None,
    ) -> JobStatus:
        """Send a video as a job, which is worked at later; other arguments as `segment`.

        Args:
            accept: media types of its results, all made from one inference.
            overlay: pictures show the mask over the frame.
            webhook: address that is sent the status when the job has ended.

        Raises:
            EndpointError: the endpoint refused.
        """
        fields = {"fps": fps, "threshold": threshold, "overlay": overlay, "webhook": webhook}
        return self._run(self._submit(_video(video, audio), accept, fields))

    def job(self, job_id: str) -> JobStatus:
        """State and progress of a job. Raises EndpointError if there is none."""
        return self._run(self._job(job_id))

    def wait(
        self,
        job_id: str,
        *,
        timeout_s: float | None = None,
        on_status: Callable[[JobStatus], None] | None = None,
    ) -> JobStatus:
        """Wait until a job has ended.

        Args:
            job_id: as `submit` returns it.
            timeout_s: longest wait; None: as long as it takes.
            on_status: called with the status about once a second.

        Raises:
            EndpointError: there is no such job, or it has failed.
            TimeoutError: it takes longer; the job stays.
        """
        started = time.monotonic()
        while (status := self.job(job_id)).state not in ENDED_JOB:
            if on_status:
                on_status(status)
            if timeout_s is not None and time.monotonic() - started >= timeout_s:
                raise TimeoutError(f"job {job_id} is still {status.state} after {timeout_s:g} s")
            time.sleep(JOB_POLL_S)
        return _checked(status)

    def result(self, job_id: str) -> SegmentAnswer:
        """The masks of a job that is done. Raises EndpointError."""
        return self._run(self._result(job_id))

    def save_result(self, job_id: str, path: str | Path, *, accept: str = "*/*") -> None:
        """Write a result of a job that is done to a file. Raises EndpointError."""
        self._run(self._save_result(job_id, path, accept))

    def cancel(self, job_id: str) -> None:
        """Cancel a job that has not ended; remove one that has. Raises EndpointError."""
        self._run(self._cancel(job_id))

    def _run(self, calls: Calls[T]) -> T:
        content: Any = None
        while True:
            try:
                call = calls.send(content)
            except StopIteration as done:
                return done.value
            content = self._send(call)

    def _send(self, call: _Call) -> bytes:
        for attempt in range(1, self._retries.attempts + 1):
            answer, error = None, None
            try:
                with self._request(call) as request, self._http.stream(**request) as answer:
                    if answer.is_success and call.target is not None:
                        with self._download(call, answer) as write:
                            for piece in answer.iter_bytes():
                                write(piece)
                        return b""
                    answer.read()
                if answer.is_success:
                    return answer.content
            except httpx.TransportError as lost:
                answer, error = None, lost
            pause_s = self._pause_after(call, attempt, answer=answer, error=error)
            if pause_s is None:
                break
            time.sleep(pause_s)
        raise error or _error(answer)


class AsyncClient(_Base):
    """As `Client`, for asyncio; an asynchronous context manager. Arguments and errors are those of `Client`."""

    def __init__(
        self,
        address: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        version: int | None = None,
        timeout_s: float = 180.0,
        retries: Retries = Retries(),
        on_progress: OnProgress | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(version=version, retries=retries, on_progress=on_progress)
        self._http = httpx.AsyncClient(
            base_url=address, timeout=timeout_s, headers=_bearer(api_key), transport=transport
        )

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def model(self) -> ModelStatus:
        """As `Client.model`."""
        return await self._run(self._model())

    async def rollout(self) -> RolloutState:
        """As `Client.rollout`."""
        return await self._run(self._rollout())

    async def segment(
        self,
        video: str | Path,
        *,
        audio: str | Path | None = None,
        fps: float | None = None,
        threshold: float = 0.5,
    ) -> SegmentAnswer:
        """As `Client.segment`."""
        return await self._run(self._segment(_video(video, audio), {"fps": fps, "threshold": threshold}))

    async def segment_windows(
        self,
        video: str | Path,
        *,
        audio: str | Path | None = None,
        fps: float | None = None,
        threshold: float = 0.5,
    ) -> AsyncIterator[list[FrameMask]]:
        """As `Client.segment_windows`."""
        fields = {"fps": fps, "threshold": threshold}
        call = self._clip(_video(video, audio), fields, accept="application/x-ndjson")
        with self._request(call) as request:
            async with self._http.stream(**request) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise _error(answer)
                async for line in answer.aiter_lines():
                    if frames := _frames_of(line):
                        yield frames

    async def save(
        self,
        video: str | Path,
        path: str | Path,
        *,
        accept: str,
        frame: int = 0,
        overlay: bool = False,
        fps: float | None = None,
        threshold: float = 0.5,
    ) -> None:
        """Write the response of a media type to a file: as `Client.save_masks` and those after it."""
        fields = {"fps": fps, "threshold": threshold, "frame": frame, "overlay": overlay}
        await self._run(self._save(_video(video), accept, path, fields))

    async def submit(
        self,
        video: str | Path,
        *,
        accept: Sequence[str] = ("application/json",),
        audio: str | Path | None = None,
        fps: float | None = None,
        threshold: float = 0.5,
        overlay: bool = False,
        webhook: str | None = None,
    ) -> JobStatus:
        """As `Client.submit`."""
        fields = {"fps": fps, "threshold": threshold, "overlay": overlay, "webhook": webhook}
        return await self._run(self._submit(_video(video, audio), accept, fields))

    async def job(self, job_id: str) -> JobStatus:
        """As `Client.job`."""
        return await self._run(self._job(job_id))

    async def wait(self, job_id: str) -> JobStatus:
        """As `Client.wait`, without a limit: put `asyncio.timeout` around it."""
        while (status := await self.job(job_id)).state not in ENDED_JOB:
            await asyncio.sleep(JOB_POLL_S)
        return _checked(status)

    async def result(self, job_id: str) -> SegmentAnswer:
        """As `Client.result`."""
        return await self._run(self._result(job_id))

    async def save_result(self, job_id: str, path: str | Path, *, accept: str = "*/*") -> None:
        """As `Client.save_result`."""
        await self._run(self._save_result(job_id, path, accept))

    async def cancel(self, job_id: str) -> None:
        """As `Client.cancel`."""
        await self._run(self._cancel(job_id))

    async def _run(self, calls: Calls[T]) -> T:
        content: Any = None
        while True:
            try:
                call = calls.send(content)
            except StopIteration as done:
                return done.value
            content = await self._send(call)

    async def _send(self, call: _Call) -> bytes:
        for attempt in range(1, self._retries.attempts + 1):
            answer, error = None, None
            try:
                with self._request(call) as request:
                    async with self._http.stream(**request) as answer:
                        if answer.is_success and call.target is not None:
                            with self._download(call, answer) as write:
                                async for piece in answer.aiter_bytes():
                                    write(piece)
                            return b""
                        await answer.aread()
                if answer.is_success:
                    return answer.content
            except httpx.TransportError as lost:
                answer, error = None, lost
            pause_s = self._pause_after(call, attempt, answer=answer, error=error)
            if pause_s is None:
                break
            await asyncio.sleep(pause_s)
        raise error or _error(answer)


def save_mask(frame: FrameMask, path: str | Path) -> None:
    """Write the mask of a frame as a png of 0 and 255."""
    Image.fromarray(decode_rle(frame.rle) * 255).save(path)


def _bearer(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _video(video: str | Path, audio: str | Path | None = None) -> Files:
    return [("video", video)] + ([("audio", audio)] if audio else [])


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _frames_of(line: str) -> list[FrameMask]:
    """The frames of a line of a progressive response. Raises EndpointError for a line with a problem."""
    content = json.loads(line)
    if problem := content.get("problem"):
        raise EndpointError(Problem.model_validate(problem))
    return [FrameMask.model_validate(frame) for frame in content.get("frames", [])]


def _checked(status: JobStatus) -> JobStatus:
    if status.problem:
        raise EndpointError(status.problem)
    return status


def _error(answer: httpx.Response | None) -> EndpointError:
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
