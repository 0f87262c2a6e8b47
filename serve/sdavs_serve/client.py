"""A typed client of the endpoint."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import httpx
from PIL import Image

from sdavs_serve.encoding.responses import decode_rle
from sdavs_serve.rollout.state import RolloutState
from sdavs_serve.schema import FrameMask, ModelStatus, Problem, SegmentAnswer

Files = list[tuple[str, str | Path]]
"""Form fields, each with the path of a file."""


class EndpointError(Exception):
    """The endpoint refused; `problem` says what, why and which limit or field."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}")
        self.problem = problem


class Client:
    """Calls one endpoint; a context manager."""

    def __init__(
        self,
        address: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        version: int | None = None,
        timeout_s: float = 180.0,
    ) -> None:
        """
        Args:
            address: the endpoint, as `sdavs_serve.deployment.deploy` returns it.
            api_key: where the endpoint requires one; `jobs/keys.py` makes them.
            version: request this version of the model; the endpoint refuses if it is not loaded.
            timeout_s: longest wait for a response.
        """
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=address, timeout=timeout_s, headers=headers)
        self._pin = {} if version is None else {"X-Model-Version": str(version)}

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def model(self) -> ModelStatus:
        """Which model serves. Raises EndpointError if none does."""
        return ModelStatus.model_validate_json(_body(self._http.get("/v1/model")))

    def rollout(self) -> RolloutState:
        """Progress of the change to another version; needs a key for admins where keys are required."""
        return RolloutState.model_validate_json(_body(self._http.get("/v1/rollout")))

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
            video: mp4, mov, webm or mkv.
            audio: replaces the video's own sound.
            fps: frames sampled a second; None leaves it to the endpoint.
            threshold: probability above which a pixel belongs to the mask.

        Raises:
            EndpointError: the endpoint refused.
        """
        files = [("video", video)] + ([("audio", audio)] if audio else [])
        return self._answer(files, fps=fps, threshold=threshold)

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
            frames: png or jpg of one size, in order of time.
            audio: wav, flac, ogg, mp3 or a video's sound.
            fps: frames for each second of sound; None leaves it to the endpoint.
            threshold: probability above which a pixel belongs to the mask.

        Raises:
            EndpointError: the endpoint refused.
        """
        files = [*(("frames", frame) for frame in frames), ("audio", audio)]
        return self._answer(files, fps=fps, threshold=threshold)

    def save_masks(
        self, video: str | Path, path: str | Path, *, fps: float | None = None, threshold: float = 0.5
    ) -> None:
        """Write all masks as png files in a zip, classes as a palette. Raises EndpointError."""
        Path(path).write_bytes(
            self._post([("video", video)], "application/zip", fps=fps, threshold=threshold)
        )

    def save_overlay_video(
        self, video: str | Path, path: str | Path, *, fps: float | None = None, threshold: float = 0.5
    ) -> None:
        """Write the overlay with the video's own sound as mp4. Raises EndpointError."""
        Path(path).write_bytes(self._post([("video", video)], "video/mp4", fps=fps, threshold=threshold))

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
        picture = {"frame": str(frame), "overlay": "true"}
        files = [("video", video)]
        Path(path).write_bytes(self._post(files, "image/png", fps=fps, threshold=threshold, **picture))

    def _answer(self, files: Files, *, fps: float | None, threshold: float) -> SegmentAnswer:
        content = self._post(files, "application/json", fps=fps, threshold=threshold)
        return SegmentAnswer.model_validate_json(content)

    def _post(
        self, files: Files, accept: str, *, fps: float | None, threshold: float, **fields: str
    ) -> bytes:
        fields |= {"threshold": str(threshold)} | ({} if fps is None else {"fps": str(fps)})
        with ExitStack() as opened:
            sent = [(field, opened.enter_context(open(path, "rb"))) for field, path in files]
            answer = self._http.post(
                "/v1/segment", files=sent, data=fields, headers={"Accept": accept} | self._pin
            )
        return _body(answer)


def save_mask(frame: FrameMask, path: str | Path) -> None:
    """Write the mask of a frame as a png of 0 and 255."""
    Image.fromarray(decode_rle(frame.rle) * 255).save(path)


def _body(answer: httpx.Response) -> bytes:
    if answer.is_success:
        return answer.content
    if answer.headers.get("content-type") == "application/problem+json":
        raise EndpointError(Problem.model_validate_json(answer.content))
    # Not from the endpoint: Serve's proxy answers in plain text while no application runs.
    raise EndpointError(
        Problem(
            type="about:blank",
            title=answer.reason_phrase,
            status=answer.status_code,
            detail=answer.text[:200],
        )
    )
