"""Media files in memory: which container, which of its tracks, and when those begin and end."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import av
from av.stream import Disposition

from sdavs_model.data.core.wav import FLOAT, INTEGER, UNKNOWN_SIZE, NotPCM, find_samples
from sdavs_serve.errors import MediaError

# Content decides, never the name or the declared type. FFmpeg gets the format instead of guessing it: its guesses
# include playlists, which open further files and addresses.
VIDEO_MAGIC = {
    b"ftyp": "mov",
    b"moov": "mov",
    b"mdat": "mov",
    b"wide": "mov",
    b"free": "mov",
    b"skip": "mov",
}
EBML_MAGIC = b"\x1aE\xdf\xa3"
SOUND_MAGIC = {
    **{b"RIFF": "wav", b"RIFX": "wav", b"RF64": "wav", b"BW64": "wav"},
    **{b"fLaC": "flac", b"OggS": "ogg", b"ID3": "mp3"},
}

RAW_FORMATS = {
    **{(INTEGER, 1): "u8", (INTEGER, 2): "s16le", (INTEGER, 3): "s24le", (INTEGER, 4): "s32le"},
    **{(FLOAT, 4): "f32le", (FLOAT, 8): "f64le"},
}
"""FFmpeg's names of samples without a header, by format and bytes of a sample."""

MAX_ZEROS = 4096
"""Zero bytes that are passed over in front of an mp3."""

TS_PACKET, TS_SYNC = 188, b"G"
"""A transport stream is packets of this many bytes, each of which begins with this byte (ISO 13818-1, 2.4.3)."""

M2TS_PREFIX = 4
"""Bytes of a time stamp before each packet, in the files of camcorders."""

HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}

HEIC_ADVICE = "send jpg (on an iPhone: Settings, Camera, Formats, Most Compatible)"

Content = bytes | memoryview
"""A whole file, in memory or mapped from disk."""


def video_format(data: Content) -> str | None:
    """FFmpeg's name of the container, by its first bytes; None if it is not accepted."""
    head = bytes(data[:12])
    if head.startswith(EBML_MAGIC):
        return "matroska"
    if head.startswith(b"RIFF") and head[8:] == b"AVI ":
        return "avi"
    if _is_transport_stream(data):
        return "mpegts"
    return None if is_heic(data) else VIDEO_MAGIC.get(head[4:8])


def is_heic(data: Content) -> bool:
    """Whether a file is a HEIC picture, in the same container as mp4."""
    head = bytes(data[:12])
    return head[4:8] == b"ftyp" and head[8:] in HEIC_BRANDS


def _is_transport_stream(data: Content) -> bool:
    for prefix in (0, M2TS_PREFIX):
        begins = [prefix + number * (prefix + TS_PACKET) for number in range(4)]
        if all(bytes(data[begin : begin + 1]) == TS_SYNC for begin in begins):
            return True
    return False


def sound_format(data: Content) -> str | None:
    """FFmpeg's name of a sound file, or of a video with sound; None if it is not accepted."""
    head = bytes(data[:8])
    if _is_mp3_frame(head) or _is_mp3_frame(bytes(data[:MAX_ZEROS]).lstrip(b"\0")):
        return "mp3"
    if bytes(data[_end_of_id3(data) :][:4]) == b"fLaC":
        return "flac"
    if found := video_format(data):
        return found
    return next((kind for magic, kind in SOUND_MAGIC.items() if head.startswith(magic)), None)


def _end_of_id3(data: Content) -> int:
    """Where the tag in front of a file ends: its size is in four times seven bit (id3v2.4.0, 3.1)."""
    head = bytes(data[:10])
    if len(head) < 10 or not head.startswith(b"ID3"):
        return 0
    return 10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))


def _is_mp3_frame(head: bytes) -> bool:
    """Whether the bytes begin with a frame header of MPEG 1, 2 or 2.5 audio, layer 3 (ISO 11172-3, 2.4.1.3)."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer == 1 and bitrate != 15 and rate != 3


def riff_size(data: Content) -> int | None:
    """Bytes that an AVI has according to its header; None if it was written to a pipe, or is of another kind."""
    size = int.from_bytes(bytes(data[4:8]), "little")
    is_known = bytes(data[:4]) == b"RIFF" and 0 < size < UNKNOWN_SIZE
    return 8 + size if is_known else None


def open_media(data: Content, kind: str) -> av.container.InputContainer:
    """Open an upload as the given container; seekable, without copying it."""
    return av.open(_View(data), mode="r", format=kind)


def open_sound(data: Content, kind: str, *, field: str) -> av.container.InputContainer:
    """The same for a sound. A wav of plain samples is opened behind its header, which training reads as well.

    Raises:
        MediaError: a wav that ends before its samples do.
    """
    if kind == "wav":
        header = cast(BinaryIO, _View(data))
        try:
            form, size = find_samples(header, "the file")
        except NotPCM:
            return open_media(data, kind)
        except ValueError as error:
            raise MediaError("corrupt", str(error).removeprefix("the file: "), field=field) from error
        begin = header.tell()
        options = {
            "sample_rate": str(form.rate),
            "ch_layout": f"{form.channels}c" if form.channels <= 8 else f"{form.channels} channels",
        }
        samples = _View(memoryview(data)[begin : begin + size // form.frame * form.frame])
        return av.open(samples, mode="r", format=RAW_FORMATS[form.tag, form.width], options=options)
    return open_media(data, kind)


def video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The video track that FFmpeg's player shows: of several the default one, else the one with the most pictures.

    Cover pictures, which FFmpeg lists as video, are passed over, also those that their file does not mark.
    """
    tracks = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    best = container.streams.best("video")
    return next((track for track in tracks if track == best), tracks[0] if tracks else None)


@dataclass(frozen=True, kw_only=True)
class Clock:
    """When the video and sound tracks of a container begin and end. Other tracks, such as subtitles, do not count."""

    start: float
    """Time of the container that counts as 0 s: the begin of the first track."""
    announced_end: float
    """Where the last track ends according to the file's headers, in seconds from `start`; 0 if unknown."""

    @classmethod
    def of(cls, container: av.container.InputContainer, data: Content = b"") -> "Clock":
        """Read from the headers; `data` is the file, whose size says whether an AVI is whole."""
        tracks: list[Any] = [
            track for track in (video_stream(container), *container.streams.audio[:1]) if track
        ]
        starts = [float(t.start_time * t.time_base) for t in tracks if t.start_time is not None]
        start = min(starts, default=(container.start_time or 0) / av.time_base)
        whole = ((container.start_time or 0) + (container.duration or 0)) / av.time_base
        # Where a track does not tell its own end, the container's counts, which may be that of another track.
        ends = [_end_of(track, None if len(tracks) < len(container.streams) else whole) for track in tracks]
        end = min(whole, max((end for end in ends if end is not None), default=0.0))
        if container.format.name == "avi":
            # FFmpeg's durations are of what is left of a file, and guessed where the header says nothing.
            if (size := riff_size(data)) is None:
                end = start
            elif size > len(data):
                end = max([end, *(float(track.frames * track.time_base) for track in tracks)])
        return cls(start=start, announced_end=max(0.0, end - start))


@contextmanager
def reading(field: str) -> Iterator[None]:
    """Turn FFmpeg's errors into MediaError, blamed on a form field."""
    try:
        yield
    except av.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise MemoryError(str(error)) from error
        raise MediaError("corrupt", f"cannot be decoded ({error.strerror})", field=field) from error


def _end_of(track: Any, otherwise: float | None) -> float | None:
    if track.duration is not None:
        return float(((track.start_time or 0) + track.duration) * track.time_base)
    # Matroska has no durations of tracks. FFmpeg and mkvmerge write them as tags.
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", track.metadata.get("DURATION", ""))
    if found is None:
        return otherwise
    hours, minutes, seconds = found.groups()
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


class _View(io.RawIOBase):
    """A file view of memory; `io.BytesIO` would copy a mapped upload into memory."""

    def __init__(self, data: Content) -> None:
        self._data = memoryview(data)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        end = len(self._data) if size is None or size < 0 else self._position + size
        part = bytes(self._data[self._position : end])
        self._position += len(part)
        return part

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._data)}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        return self._position
