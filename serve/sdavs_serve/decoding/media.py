"""Uploads -> windows of clips. Reads front to back; memory holds one window, whatever the length of the video.

Alignment: sample i covers the time from i / fps to (i + 1) / fps. Its picture is the one on screen in the
middle of that time and its sound is the second around the same moment (our choice: AVSBench takes the last
sixteenth of each second, which lags the sound by half a second; the middle is fair to both ends, and equals
the bundled data, whose frame i is shown for the whole second i). At fps 1 the seconds of sound follow each
other without gap or overlap, as in training.
"""

import io
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import av
import numpy as np

from sdavs_model.data.core.clip import Clip
from sdavs_serve.decoding.pictures import PictureTrack, decode_picture
from sdavs_serve.decoding.sound import SoundTrack, gapless
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
SOUND_MAGIC = {b"RIFF": "wav", b"fLaC": "flac", b"OggS": "ogg", b"ID3": "mp3", b"\xff\xfb": "mp3"}

TRUNCATION_SLACK_S = 1.0
"""How much earlier than announced a video may end; muxers round, and the last frame's length is often unknown."""


OVERLAY_RATE = 48_000
"""Samples a second of an overlay's sound, which is stereo."""


class Limits(Protocol):
    """The keys of `ServeConfig` that decoding checks."""

    @property
    def max_seconds(self) -> float: ...
    @property
    def max_frames(self) -> int: ...
    @property
    def max_pixels(self) -> int: ...


Content = bytes | memoryview
"""A whole file; memory that is mapped from disk as well as memory that is filled."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One moment of an upload."""

    time_s: float
    picture: np.ndarray
    """[H, W, 3] uint8, RGB, upright."""
    second: np.ndarray
    """[16000] float32, the second of sound around `time_s`."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """The model's input: up to `num_frames` consecutive samples."""

    clip: Clip
    first: int
    """Index, in the whole upload, of the first sample that no earlier window covers."""
    samples: list[Sample]
    """The samples whose masks this window yields: the last ones of the clip. Those before them only give context."""


def windows(samples: Iterable[Sample], *, num_frames: int) -> Iterator[Window]:
    """Cuts samples into clips of the length the model was trained with.

    The last window reaches back to be full, so that its frames have as much context as all others; an upload
    shorter than a window makes one shorter clip.
    """
    recent: deque[Sample] = deque(maxlen=num_frames)
    count, fresh = 0, 0
    for sample in samples:
        recent.append(sample)
        count, fresh = count + 1, fresh + 1
        if fresh == num_frames:
            yield _window(list(recent), first=count - fresh, fresh=fresh)
            fresh = 0
    if fresh:
        yield _window(list(recent), first=count - fresh, fresh=fresh)


def _window(samples: list[Sample], *, first: int, fresh: int) -> Window:
    clip = Clip(
        name=f"upload from {samples[0].time_s:.2f} s",
        frames=np.stack([sample.picture for sample in samples]),
        waveform=np.concatenate([sample.second for sample in samples]),
    )
    return Window(clip=clip, first=first, samples=samples[-fresh:])


def decode_video(data: Content, *, fps: float, limits: Limits, field: str = "video") -> Iterator[Sample]:
    """Samples a video with sound: mp4, mov, webm or mkv.

    Two readers walk the same bytes, one for pictures and one for sound, so that a file that stores them far
    apart needs no more memory than one that interleaves them.

    Raises:
        MediaError: not such a file, damaged, cut short, without sound, or beyond a limit.
    """
    kind = video_format(data)
    if kind is None:
        raise MediaError("unsupported", "not an mp4, mov, webm or mkv file", field=field)
    with _reading(field), open_media(data, kind) as pictures, open_media(data, kind) as sounds:
        start = (pictures.start_time or 0) / av.time_base
        announced = (pictures.duration or 0) / av.time_base
        _check_end(announced, fps, limits, field)
        track = PictureTrack(pictures, start=start, max_pixels=limits.max_pixels, field=field)
        sound = SoundTrack(sounds, start=start, field=field)
        size: tuple[int, ...] | None = None
        for index, picture in enumerate(track.sampled(fps)):
            # Checked at every frame: a file may announce less than it holds, or jump ahead by a year.
            _check_end((index + 1) / fps, fps, limits, field)
            if index >= limits.max_frames:
                raise _too_many_frames(limits, field)
            if size is not None and picture.shape != size:
                raise MediaError("unsupported", f"the picture changes size in frame {index}", field=field)
            size = picture.shape
            time_s = (index + 0.5) / fps
            yield Sample(time_s=time_s, picture=picture, second=sound.second_around(time_s))
        # Either track may be shorter on purpose; a file that was cut short lacks the end of both.
        end = max(track.end, sound.read_to_end(no_further_than=announced))
        if end < announced - TRUNCATION_SLACK_S:
            detail = f"cut short: {end:.1f} of {announced:.1f} s can be read"
            raise MediaError("corrupt", detail, field=field)
        if not sound.num_decoded:
            raise MediaError(
                "no_sound", "the sound track is empty; SDAVS segments what is making the sound", field=field
            )


def decode_pictures(
    pictures: Sequence[Content], sound: Content, *, fps: float, limits: Limits
) -> Iterator[Sample]:
    """Samples that come as one png or jpg each, in order, with a sound file (wav, flac, ogg, mp3 or a video's).

    Raises:
        MediaError: a file is of another kind, damaged or beyond a limit, or the pictures differ in size.
    """
    if len(pictures) > limits.max_frames:
        raise _too_many_frames(limits, "frames")
    _check_end(len(pictures) / fps, fps, limits, "frames")
    with _sound_file(sound) as track:
        size = None
        for index, data in enumerate(pictures):
            picture = decode_picture(data, max_pixels=limits.max_pixels, field=f"frames[{index}]")
            if size is not None and picture.shape != size:
                raise MediaError("invalid", "differs in size from frames[0]", field=f"frames[{index}]")
            size = picture.shape
            time_s = (index + 0.5) / fps
            yield Sample(time_s=time_s, picture=picture, second=track.second_around(time_s))


def heard_with(samples: Iterable[Sample], sound: Content) -> Iterator[Sample]:
    """The same samples with the sound of another file, and silence after its end.

    Raises:
        MediaError: the file is of another kind, damaged or empty.
    """
    with _sound_file(sound) as track:
        for sample in samples:
            yield replace(sample, second=track.second_around(sample.time_s))


@contextmanager
def _sound_file(data: Content) -> Iterator[SoundTrack]:
    kind = sound_format(data)
    if kind is None:
        raise MediaError("unsupported", "not a wav, flac, ogg or mp3 file", field="audio")
    with _reading("audio"), open_media(data, kind) as container:
        track = SoundTrack(container, start=(container.start_time or 0) / av.time_base, field="audio")
        yield track
        if not track.num_decoded:
            raise MediaError("no_sound", "the file holds no sound", field="audio")


def decode_stereo(data: Content, *, until: float) -> Iterator[np.ndarray]:
    """The sound of an upload for its overlay: blocks [2, N] float32 at `OVERLAY_RATE`, from 0 s on without gaps.

    Raises:
        MediaError: damaged.
    """
    kind = sound_format(data)
    assert kind is not None, "decoding has already read this sound"
    with _reading("audio"), open_media(data, kind) as source:
        start = (source.start_time or 0) / av.time_base
        left = round(until * OVERLAY_RATE)
        for block, _ in gapless(source, start=start, rate=OVERLAY_RATE, layout="stereo", field="audio"):
            yield block[:, :left]
            left -= block.shape[1]
            if left <= 0:
                return


def video_format(data: Content) -> str | None:
    """FFmpeg's name of the container, by its first bytes; None if it is not accepted."""
    head = bytes(data[:8])
    return "matroska" if head.startswith(EBML_MAGIC) else VIDEO_MAGIC.get(head[4:])


def sound_format(data: Content) -> str | None:
    """FFmpeg's name of a sound file, or of a video with sound; None if it is not accepted."""
    head = bytes(data[:8])
    return next((kind for magic, kind in SOUND_MAGIC.items() if head.startswith(magic)), video_format(data))


def open_media(data: Content, kind: str) -> av.container.InputContainer:
    """Opens an upload as the given container; seekable, without copying it."""
    return av.open(_View(data), mode="r", format=kind)


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


@contextmanager
def _reading(field: str) -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise MemoryError(str(error)) from error
        raise MediaError("corrupt", f"cannot be decoded ({error.strerror})", field=field) from error


def _check_end(end: float, fps: float, limits: Limits, field: str) -> None:
    # Measured at the last sample, so that a file of 60.02 s passes a limit of 60: sound is padded to full packets.
    if end - 0.5 / fps > limits.max_seconds:
        detail = f"{math.ceil(end)} s long or longer; allowed: {limits.max_seconds:g} s"
        raise MediaError("too_large", detail, field=field, limit="max_seconds")


def _too_many_frames(limits: Limits, field: str) -> MediaError:
    detail = f"more than {limits.max_frames} frames; send a shorter clip or a lower fps"
    return MediaError("too_large", detail, field=field, limit="max_frames")
