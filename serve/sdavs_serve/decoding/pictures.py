"""The pictures of an upload: a video's frames at given moments, or one png or jpg."""

import io
from collections.abc import Iterator

import av
import numpy as np
from PIL import Image, ImageOps

from sdavs_serve.errors import MediaError


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
        if not container.streams.video:
            raise MediaError("unsupported", "the file has no video track", field=field)
        self._container = container
        self._stream = container.streams.video[0]
        self._start = start
        self._max_pixels = max_pixels
        self._field = field
        self.end = 0.0
        """End of the last picture decoded so far, in seconds."""
        codec = self._stream.codec_context
        _check_pixels(codec.width, codec.height, max_pixels, field)

    def sampled(self, fps: float) -> Iterator[np.ndarray]:
        """[H, W, 3] uint8 RGB: what is on screen at (i + 0.5) / fps for every i before the end; at least one.

        Raises:
            MediaError: no picture, or one without a time stamp ("corrupt"), or one beyond `max_pixels`.
        """
        shown: av.VideoFrame | None = None
        index = 0
        for frame in self._container.decode(self._stream):
            _check_pixels(frame.width, frame.height, self._max_pixels, self._field)
            if frame.time is None:
                raise MediaError("corrupt", "a picture has no time stamp", field=self._field)
            time = frame.time - self._start
            while shown is not None and (index + 0.5) / fps < time:
                yield _upright(shown)
                index += 1
            shown = frame
            self.end = time + self._length(frame)
        if shown is None:
            raise MediaError("corrupt", "the video track holds no picture", field=self._field)
        while (index + 0.5) / fps < self.end or index == 0:
            yield _upright(shown)
            index += 1

    def _length(self, frame: av.VideoFrame) -> float:
        if frame.duration and frame.time_base:
            return float(frame.duration * frame.time_base)
        return float(1 / self._stream.average_rate) if self._stream.average_rate else 0.0


def decode_picture(data: bytes | memoryview, *, max_pixels: int, field: str) -> np.ndarray:
    """A png or jpg -> [H, W, 3] uint8 RGB, upright according to its EXIF orientation.

    Raises:
        MediaError: neither png nor jpg ("unsupported"), damaged ("corrupt") or beyond `max_pixels` ("too_large").
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            _check_pixels(*image.size, max_pixels, field)
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Image.DecompressionBombError as error:  # Pillow's own limit, far above any sensible max_pixels
        raise MediaError("too_large", str(error), field=field, limit="max_pixels") from error
    except Image.UnidentifiedImageError as error:
        raise MediaError("unsupported", "not a png or jpg picture", field=field) from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise on damage
        raise MediaError("corrupt", f"cannot be decoded ({error})", field=field) from error


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """RGB as a player shows it: phones store portraits rotated, with a matrix that turns them upright."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), k=frame.rotation // 90))


def _check_pixels(width: int, height: int, max_pixels: int, field: str) -> None:
    if width * height > max_pixels:
        detail = f"pictures of {width} x {height} pixels; allowed: {max_pixels} in all"
        raise MediaError("too_large", detail, field=field, limit="max_pixels")
