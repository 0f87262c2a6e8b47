"""The request form of POST /v1/segment, and the choice of the response's media type."""

import asyncio
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import numpy as np
from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field, field_validator

from sdavs_serve.decoding.sandboxed_decoders import Sandbox, Upload, UploadKind
from sdavs_serve.encoding.overlay_video import OverlayVideoWriter
from sdavs_serve.encoding.responses import JsonWriter, PngWriter, Writer, ZipWriter
from sdavs_serve.errors import RequestError
from sdavs_serve.schema import AnswerHead

NDJSON = "application/x-ndjson"
"""One JSON document a line, sent while the clip is being processed."""

MEDIA_TYPES = ("application/json", "image/png", "application/zip", "video/mp4", NDJSON)
"""Media types of the response, the default first."""

JOB_TYPES = MEDIA_TYPES[:-1]
"""Media types of a job's results."""

QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


class SegmentForm(BaseModel):
    """The form of POST /v1/segment: either `video`, or `frames` (repeated, in order of time) and `audio`.

    Names and declared types of the files are ignored; their content decides.
    """

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    video: UploadFile | None = None
    """A video with sound: mp4, mov, webm, mkv, avi or ts."""
    frames: list[UploadFile] = []
    """Pictures, png, jpg or WebP, all of one size."""
    audio: UploadFile | None = None
    """A sound: wav, flac, ogg, mp3 or a video's. It belongs to `frames`; sent with `video`, the model gets it instead
    of the video's own sound, and silence where it is shorter."""
    fps: float | None = Field(default=None, ge=0.01, le=60, examples=[1.0])
    """Frames sampled from a second of video, or sent for a second of sound. Default: the endpoint's, 1 unless
    configured otherwise, which is what the model was trained on."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Probability above which a pixel belongs to the mask. Semantic models return the most probable class instead."""
    frame: int = Field(default=0, ge=0)
    """Which frame `image/png` shows, from 0."""
    overlay: bool = False
    """Pictures (`image/png`, `application/zip`) show the mask over the frame instead of the bare mask."""

    @field_validator("frames", mode="before")
    @classmethod
    def _empty_is_none(cls, value: list[Any]) -> list[Any]:
        return [item for item in value if item != ""]  # /docs sends "" for a field that was left empty

    async def read(self, *, default_fps: float) -> Upload:
        """The files' content, on disk.

        Raises:
            RequestError: 422, not exactly one of the two ways to send a clip.
        """
        if (self.video is None) == (not self.frames):
            detail = "send either video, or frames and audio"
            raise RequestError(status=422, kind="invalid", detail=detail, field="video")
        if self.frames and self.audio is None:
            detail = "frames need audio: SDAVS segments what is making the sound"
            raise RequestError(status=422, kind="no_sound", detail=detail, field="audio")
        fps = self.fps or default_fps
        if self.video and not self.audio:
            whole = (0, self.video.size or 0)
            return Upload(
                file=self.video.file, kind="video", parts=[whole], fps=fps, threshold=self.threshold
            )
        assert self.audio
        pictures = [self.video] if self.video else self.frames
        file, parts = await asyncio.to_thread(_joined, [*pictures, self.audio])
        kind: UploadKind = "video" if self.video else "pictures"
        return Upload(file=file, kind=kind, parts=parts, fps=fps, threshold=self.threshold)

    @property
    def options(self) -> str:
        """What of the form a writer depends on."""
        return f"frame={self.frame} overlay={self.overlay}"

    def new_writer(
        self, media_type: str, upload: Upload, sandbox: Sandbox
    ) -> Callable[[AnswerHead, list[str]], Writer]:
        """A factory of writers for the negotiated media type."""

        def sound(until: float) -> Iterator[np.ndarray]:
            return sandbox.sound(upload, until=until).sound()

        writers: dict[str, Callable[[AnswerHead, list[str]], Writer]] = {
            "application/json": JsonWriter,
            "image/png": lambda head, classes: PngWriter(classes, index=self.frame, overlay=self.overlay),
            "application/zip": lambda head, classes: ZipWriter(head, classes, overlay=self.overlay),
            "video/mp4": lambda head, classes: OverlayVideoWriter(fps=upload.fps, sound=sound),
        }
        return writers[media_type]


def _joined(files: list[UploadFile]) -> tuple[IO[bytes], list[tuple[int, int]]]:
    """Concatenate the files, because a decoder gets one descriptor; with offset and length of each."""
    joined, parts = tempfile.TemporaryFile(), []  # noqa: SIM115 - closed with the request
    for file in files:
        start = joined.tell()
        shutil.copyfileobj(file.file, joined)
        parts.append((start, joined.tell() - start))
    joined.flush()
    return joined, parts


def negotiate(accept: str, offered: Sequence[str] = MEDIA_TYPES) -> str:
    """The media type that an Accept header prefers (RFC 9110, 12.5.1); among equals the one that it names first.

    Raises:
        RequestError: 406, it accepts none of `offered`.
    """
    ranges = [media_range(part) for part in accept.lower().split(",") if part.strip()]
    best, best_rank = None, (0.0, 0)
    for media_type in offered:
        patterns = (media_type, f"{media_type.partition('/')[0]}/*", "*/*")
        # The most specific range that matches decides.
        matching = (
            (q, -at) for pattern in patterns for at, (name, q) in enumerate(ranges) if name == pattern
        )
        rank = next(matching, (0.0, 0))
        if rank[0] > 0 and (best is None or rank > best_rank):
            best, best_rank = media_type, rank
    if best is None:
        raise RequestError(status=406, kind="unsupported", detail=f"can answer with: {', '.join(offered)}")
    return best


def media_range(text: str) -> tuple[str, float]:
    """Name and quality of one element of an Accept header; a malformed quality counts as 0."""
    name, *parameters = (piece.strip() for piece in text.split(";"))
    for parameter in parameters:
        key, _, value = (piece.strip() for piece in parameter.partition("="))
        if key == "q":
            return name, float(value) if QUALITY.fullmatch(value) else 0.0
    return name, 1.0
