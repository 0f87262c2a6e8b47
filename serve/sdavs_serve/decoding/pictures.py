"""The pictures of an upload: a video's frames at given moments, or one png, jpg or WebP."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
from PIL import Image

from sdavs_model.data.core.images import displayed
from sdavs_model.data.core.orientation import frame_orientation, size_in_square_pixels, upright
from sdavs_serve.decoding.colours import as_rgb
from sdavs_serve.decoding.containers import HEIC_ADVICE, is_heic, reading, video_stream
from sdavs_serve.errors import MediaError

STILLS = ("PNG", "JPEG", "WEBP")
"""Pillow's names of the formats that are read."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """The moments of a video that are sampled: i in the middle of the time from i / fps to (i + 1) / fps.

    A video that ends before the first of them is sampled in its middle instead.
    """

    fps: float
    announced_end: float
    """Length of the video according to its headers, in seconds; 0 if unknown."""

    def __getitem__(self, index: int) -> float:
        """Moment `index`, in seconds."""
        moment = (index + 0.5) / self.fps
        if index == 0 and 0 < self.announced_end <= moment:
            return self.announced_end / 2
        return moment


class PictureTrack:
    """The first video track of an open container, on the container's own clock.

    Raises:
        MediaError: there is no video track ("unsupported") or its pictures are beyond `max_pixels` ("too_large").
    """

    def __init__(
        self, container: av.container.InputContainer, *, start: float, max_pixels: int, field: str
    ) -> None:
        """
        Args:
            container: open for this reader alone; it is decoded from its current position.
            start: the container's time that counts as 0 s.
            max_pixels: largest picture, width times height.
            field: form field that the file came in, for messages.
        """
        stream = video_stream(container)
        if stream is None:
            raise MediaError("unsupported", "the file has no video track", field=field)
        self._container = container
        self._stream = stream
        self._start = start
        self._max_pixels = max_pixels
        self._field = field
        self.end = 0.0
        """End of the last picture decoded so far, in seconds."""
        self._first_dts: int | None = None
        self._shown: tuple[av.VideoFrame, tuple[int, int]] | None = None
        codec = self._stream.codec_context
        _check_pixels(codec.width, codec.height, max_pixels, field)

    def sampled(self, moments: Moments) -> Iterator[np.ndarray]:
        """[H, W, 3] uint8 RGB: what is on screen at every moment before the end; at least one.

        Raises:
            MediaError: no picture, or one without a time stamp ("corrupt"), or one beyond `max_pixels`.
        """
        index, last = 0, 0.0
        for frame in self._frames():
            size = size_in_square_pixels(frame.width, frame.height, self._stream.sample_aspect_ratio)
            _check_pixels(*size, self._max_pixels, self._field)
            time = self._time_of(frame, last)
            while self._shown is not None and moments[index] < time:
                yield self.last_picture()
                index += 1
            self._shown, last = (frame, size), time
            self.end = time + self._length(frame)
        if self._shown is None:
            raise MediaError("corrupt", "the video track holds no picture", field=self._field)
        while moments[index] < self.end or index == 0:
            yield self.last_picture()
            index += 1

    def last_picture(self) -> np.ndarray:
        """[H, W, 3] uint8 RGB: the last picture that has been decoded."""
        assert self._shown is not None, "no picture has been decoded"
        return _as_displayed(*self._shown)

    def _frames(self) -> Iterator[av.VideoFrame]:
        with reading(self._field):
            yield from self._container.decode(self._stream)

    def _time_of(self, frame: av.VideoFrame, last: float) -> float:
        """When a picture appears, in seconds; `last` is when the one before it did."""
        if "avi" in self._container.format.name:
            # AVI counts pictures in the order in which they are decoded, not shown. `dts` is that of the packet with
            # which a picture came out, so it ascends, late by as many packets as the decoder holds back.
            if frame.dts is None or not frame.time_base:
                return self.end
            if self._first_dts is None:
                self._first_dts = frame.dts
            begin = float((self._stream.start_time or 0) * frame.time_base) - self._start
            return max(last, begin + float((frame.dts - self._first_dts) * frame.time_base))
        if frame.time is None:
            raise MediaError("corrupt", "a picture has no time stamp", field=self._field)
        return frame.time - self._start

    def _length(self, frame: av.VideoFrame) -> float:
        if frame.duration and frame.time_base:
            return float(frame.duration * frame.time_base)
        return float(1 / self._stream.average_rate) if self._stream.average_rate else 0.0


def decode_picture(data: bytes | memoryview, *, max_pixels: int, field: str) -> np.ndarray:
    """A png, jpg or WebP -> [H, W, 3] uint8 RGB, upright according to its EXIF orientation.

    Raises:
        MediaError: another format or an animation ("unsupported"), damaged ("corrupt") or beyond `max_pixels`
            ("too_large").
    """
    if is_heic(data):
        raise MediaError("unsupported", f"a HEIC picture; {HEIC_ADVICE}", field=field)
    try:
        with Image.open(io.BytesIO(data), formats=STILLS) as image:
            _check_pixels(*image.size, max_pixels, field)
            if image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
                kind = "PNG" if image.format == "PNG" else "WebP"
                raise MediaError("unsupported", f"an animated {kind}; send a picture a second", field=field)
            return displayed(image)
    except Image.DecompressionBombError as error:  # Pillow's own limit, far above any sensible max_pixels
        raise MediaError("too_large", str(error), field=field, limit="max_pixels") from error
    except Image.UnidentifiedImageError as error:
        raise MediaError("unsupported", "not a png, jpg or WebP picture", field=field) from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise on damage
        raise MediaError("corrupt", f"cannot be decoded ({error})", field=field) from error


def _as_displayed(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    """[H, W, 3] uint8 RGB as a player shows the frame: square pixels, right colours, upright."""
    return upright(as_rgb(frame, size), frame_orientation(frame))


def _check_pixels(width: int, height: int, max_pixels: int, field: str) -> None:
    if width * height > max_pixels:
        detail = f"pictures of {width} x {height} pixels; allowed: {max_pixels} in all"
        raise MediaError("too_large", detail, field=field, limit="max_pixels")
