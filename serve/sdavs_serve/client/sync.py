"""`Client`: calls the endpoint and waits for it."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from sdavs_serve.client.calls import (
    JOB_POLL_S,
    BaseClient,
    Call,
    Calls,
    Files,
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


class Client(BaseClient):
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
        retries: Retries | None = None,
        on_progress: OnProgress | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """
        Args:
            address: the endpoint, as `sdavs_serve.deployment.deploy` returns it.
            api_key: where the endpoint requires one; `jobs/keys.py` makes them.
            version: request this version of the model; the endpoint refuses if it is not loaded.
            timeout_s: longest wait for a response.
            retries: when a request is sent again; None: the defaults of `Retries`.
            on_progress: called while bodies are sent and received.
            transport: sends the requests; None: httpx's own.
        """
        super().__init__(version=version, retries=retries, on_progress=on_progress)
        self._http = httpx.Client(
            base_url=address, timeout=timeout_s, headers=bearer(api_key), transport=transport
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
        return self._run(self._segment(video_files(video, audio), {"fps": fps, "threshold": threshold}))

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
        call = self._clip(video_files(video, audio), fields, accept="application/x-ndjson")
        with self._request(call) as request, self._http.stream(**request) as answer:
            if not answer.is_success:
                answer.read()
                raise error_of(answer)
            for line in answer.iter_lines():
                if frames := frames_of(line):
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
        self._run(self._save(video_files(video), "application/zip", path, fields))

    def save_overlay_video(
        self, video: str | Path, path: str | Path, *, fps: float | None = None, threshold: float = 0.5
    ) -> None:
        """Write the overlay with the video's own sound as mp4. Raises EndpointError."""
        self._run(self._save(video_files(video), "video/mp4", path, {"fps": fps, "threshold": threshold}))

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
        self._run(self._save(video_files(video), "image/png", path, fields))

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
        return self._run(self._submit(video_files(video, audio), accept, fields))

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
        return checked(status)

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

    def _send(self, call: Call) -> bytes:
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
        raise error or error_of(answer)
