"""The decoder: one job on one file, results to the connection. Runs confined; see `fork_server.py`."""

import mmap
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sdavs_serve.decoding import protocol
from sdavs_serve.decoding.media import Sample, Timeline, decode_pictures, decode_stereo, decode_video
from sdavs_serve.errors import MediaError


@dataclass(frozen=True, kw_only=True)
class MediaLimits:
    """The keys of `ServeConfig` that decoding needs; the decoder needs neither the rest nor pydantic."""

    max_seconds: float
    max_frames: int
    max_pixels: int
    timeout_s: float
    decoder_memory_mb: float
    decoder_cpu_s: float

    @classmethod
    def of(cls, config: Any) -> "MediaLimits":
        """The limits of a `ServeConfig`."""
        return cls(**{name: getattr(config, name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to decode."""

    what: Literal["video", "pictures", "sound"]
    """sound: of the video, or of the sound file behind the pictures, for an overlay."""
    parts: list[tuple[int, int]]
    """Offset and length in the file: of the video or of each picture and, last, of the sound (optional for video)."""
    fps: float
    limits: MediaLimits
    until: float = 0.0
    """For `sound`: seconds to decode."""
    squash_to: int | None = None
    """Side of the model's pictures: squashed here, a 4K picture does not have to leave this process."""
    keep_pictures: bool = False
    """With `squash_to`: also send the pictures as displayed, to draw on."""

    def to_json(self) -> dict[str, Any]:
        """As JSON, for `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> "Job":
        """From the output of `to_json`."""
        return cls(**{**body, "limits": MediaLimits(**body["limits"])})


def run(connection: socket.socket, file: int, *, confine: Callable[[Job, int], None]) -> None:
    """Read the job, call `confine`, decode, and send the results."""
    job = Job.from_json(protocol.receive(connection, max_array=0).body)
    size = os.fstat(file).st_size
    # Mapped, not read: the kernel pages it in as needed, and memory does not grow with the file.
    content = memoryview(mmap.mmap(file, 0, access=mmap.ACCESS_READ)) if size else memoryview(b"")
    confine(job, size)
    try:
        for message in _messages(job, [content[start : start + length] for start, length in job.parts]):
            protocol.send(connection, message)
    except (MediaError, MemoryError) as error:
        refusal = error if isinstance(error, MediaError) else _too_much(job)
        body = {name: getattr(refusal, name) for name in ("kind", "detail", "field", "limit")}
        protocol.send(connection, protocol.Message(what="error", body=body))


def _too_much(job: Job) -> MediaError:
    detail = f"takes more than {job.limits.decoder_memory_mb:g} MB of memory to decode"
    field = "video" if job.what == "video" else "frames"
    return MediaError("too_large", detail, field=field, limit="decoder_memory_mb")


def _messages(job: Job, parts: list[memoryview]) -> Iterator[protocol.Message]:
    ends: list[Timeline] = []
    if job.what == "sound":
        for block in decode_stereo(parts[-1], until=job.until):
            yield protocol.Message(what="sound", arrays=(block,))
    else:
        for sample in _samples(job, parts, ends.append):
            if job.squash_to is not None:
                sample = sample.for_model(job.squash_to, keep=job.keep_pictures)
            arrays = [sample.picture, sample.second]
            if sample.displayed is not None:
                arrays.append(sample.displayed)
            body = {"time_s": sample.time_s, "size": sample.size}
            yield protocol.Message(what="sample", body=body, arrays=tuple(arrays))
    yield protocol.Message(what="end", body=asdict(ends[0]) if ends else {})


def _samples(job: Job, parts: list[memoryview], on_end: Callable[[Timeline], None]) -> Iterator[Sample]:
    if job.what == "pictures":
        return decode_pictures(parts[:-1], parts[-1], fps=job.fps, limits=job.limits)
    sound = parts[1] if len(parts) > 1 else None
    return decode_video(parts[0], fps=job.fps, limits=job.limits, sound=sound, on_end=on_end)
