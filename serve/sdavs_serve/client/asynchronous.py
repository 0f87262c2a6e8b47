"""`AsyncClient`: calls the endpoint from asyncio."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from sdavs_serve.client.calls import (
    JOB_POLL_S,
    BaseClient,
    Call,
    Calls,
    OnProgress,
    Retries,
    T,
    bearer,
    checked,
    error_of,
    frames_of,
    video_files,
)
from sdavs_serve.rollout.state import RolloutState
from sdavs_serve.schema import ENDED_JOB, FrameMask, JobStatus, ModelStatus, SegmentAnswer


class AsyncClient(BaseClient):
    """As `Client`, for asyncio; an asynchronous context manager. Arguments and errors are those of `Client`."""

    def __init__(
        self,
        address: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        version: int | None = None,
        timeout_s: float = 180.0,
        retries: Retries | None = None,
        on_progress: OnProgress | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(version=version, retries=retries, on_progress=on_progress)
        self._http = httpx.AsyncClient(
            base_url=address, timeout=timeout_s, headers=bearer(api_key), transport=transport
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
        return await self._run(self._segment(video_files(video, audio), {"fps": fps, "threshold": threshold}))

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
        call = self._clip(video_files(video, audio), fields, accept="application/x-ndjson")
        with self._request(call) as request:
            async with self._http.stream(**request) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise error_of(answer)
                async for line in answer.aiter_lines():
                    if frames := frames_of(line):
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
        await self._run(self._save(video_files(video), accept, path, fields))

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
        return await self._run(self._submit(video_files(video, audio), accept, fields))

    async def job(self, job_id: str) -> JobStatus:
        """As `Client.job`."""
        return await self._run(self._job(job_id))

    async def wait(self, job_id: str) -> JobStatus:
        """As `Client.wait`, without a limit: put `asyncio.timeout` around it."""
        while (status := await self.job(job_id)).state not in ENDED_JOB:
            await asyncio.sleep(JOB_POLL_S)
        return checked(status)

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

    async def _send(self, call: Call) -> bytes:
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
        raise error or error_of(answer)
