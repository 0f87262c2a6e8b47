"""A typed client of the endpoint."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import httpx
from PIL import Image

from sdavs_serve.encode import decode_rle
from sdavs_serve.rollout.state import RolloutState
from sdavs_serve.schema import FrameMask, ModelStatus, Problem, SegmentAnswer


class EndpointError(Exception):
    """The endpoint refused; `problem` says what, why and which limit or field."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}")
        self.problem = problem


class Client:
    """Talks to one endpoint; use it with `with`."""

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
            address: the endpoint, as `sdavs_serve.app.deploy` returns it.
            api_key: where the endpoint requires one; `jobs/keys.py` makes them.
            version: insist on this version of the model; the endpoint refuses if it is not loaded.
            timeout_s: longest wait for an answer.
        """
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=address, timeout=timeout_s, headers=headers)
        self._pin = {} if version is None else {"X-Model-Version": str(version)}

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def model(self) -> ModelStatus:
        """Which model serves. Raises EndpointError if none does."""
        return ModelStatus.model_validate_json(_body(self._http.get("/v1/model")))

    def rollout(self) -> RolloutState:
        """Where the change to another version stands; needs a key for admins where keys are required."""
        return RolloutState.model_validate_json(_body(self._http.get("/v1/rollout")))

    def segment(
        self, video: str | Path, *, fps: float | None = None, threshold: float = 0.5
    ) -> SegmentAnswer:
        """Masks of a video with sound.

        Args:
            video: mp4, mov, webm or mkv.
            fps: frames sampled a second; None leaves it to the endpoint.
            threshold: probability above which a pixel belongs to the mask.

        Raises:
            EndpointError: the endpoint refused.
        """
        return SegmentAnswer.model_validate_json(self._post(video, "application/json", fps, threshold, {}))

    def save_overlay_video(
        self, video: str | Path, path: str | Path, *, fps: float | None = None, threshold: float = 0.5
    ) -> None:
        """Write the overlay with the video's own sound as mp4. Raises EndpointError."""
        Path(path).write_bytes(self._post(video, "video/mp4", fps, threshold, {}))

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
        Path(path).write_bytes(self._post(video, "image/png", fps, threshold, picture))

    def _post(
        self, video: str | Path, accept: str, fps: float | None, threshold: float, fields: dict[str, str]
    ) -> bytes:
        fields = fields | {"threshold": str(threshold)} | ({} if fps is None else {"fps": str(fps)})
        with open(video, "rb") as file:
            answer = self._http.post(
                "/v1/segment", files={"video": file}, data=fields, headers={"Accept": accept} | self._pin
            )
        return _body(answer)


def save_mask(frame: FrameMask, path: str | Path) -> None:
    """Write one answered mask as a png of 0 and 255."""
    Image.fromarray(decode_rle(frame.rle) * 255).save(path)


def _body(answer: httpx.Response) -> bytes:
    if answer.is_success:
        return answer.content
    if answer.headers.get("content-type") == "application/problem+json":
        raise EndpointError(Problem.model_validate_json(answer.content))
    # Not ours: the proxy answers in plain text while no application runs.
    raise EndpointError(
        Problem(
            type="about:blank",
            title=answer.reason_phrase,
            status=answer.status_code,
            detail=answer.text[:200],
        )
    )
