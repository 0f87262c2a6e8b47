"""Response body `video/mp4` (H.264, AAC): the sampled frames with their masks, and the upload's sound."""

import math
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import IO

import av
import numpy as np

from sdavs_serve.decoding.media import OVERLAY_RATE
from sdavs_serve.encoding.responses import SegmentedFrame, draw_overlay
from sdavs_serve.schema import Timeline, Timings

MIN_RATE = 10
"""Pictures a second in the file. Sampled frames are repeated to reach it: players seek badly in slower video."""


class OverlayVideoWriter:
    """`video/mp4`: each sampled frame is shown for 1 / fps seconds.

    The frames between the samples are left out, because they have no mask of their own.
    """

    media_type = "video/mp4"
    draws = True

    def __init__(self, *, fps: float, sound: Callable[[float], Iterator[np.ndarray]]) -> None:
        """
        Args:
            fps: sampled frames a second.
            sound: the upload's sound up to a moment in seconds, as blocks [2, N] float32 at `OVERLAY_RATE`.
        """
        self._sound = sound
        self._repeats = max(1, math.ceil(MIN_RATE / fps))
        self._rate = (Fraction(fps) * self._repeats).limit_denominator(1001)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it has been sent
        self._container = av.open(self._file, "w", format="mp4")
        self._video = self._container.add_stream(
            "libx264", rate=self._rate, options={"preset": "veryfast", "crf": "20"}
        )
        self._video.pix_fmt = "yuv420p"
        self._audio = self._container.add_stream("aac", rate=OVERLAY_RATE, layout="stereo")
        self._num_pictures = 0

    def add(self, frame: SegmentedFrame) -> None:
        """Encode the frame."""
        drawn = draw_overlay(frame.picture, frame.mask)
        # H.264 with 4:2:0 colour needs even sides.
        drawn = np.pad(drawn, ((0, drawn.shape[0] % 2), (0, drawn.shape[1] % 2), (0, 0)), mode="edge")
        if self._num_pictures == 0:
            self._video.height, self._video.width = drawn.shape[:2]
        for _ in range(self._repeats):
            picture = av.VideoFrame.from_ndarray(drawn, format="rgb24")
            picture.pts = self._num_pictures
            picture.time_base = 1 / self._rate
            self._container.mux(self._video.encode(picture))
            self._num_pictures += 1

    def finish(self, timings: Timings, timeline: Timeline | None = None) -> IO[bytes]:
        """The file."""
        self._container.mux(self._video.encode(None))
        self._add_sound(until=float(self._num_pictures / self._rate))
        self._container.close()
        self._file.seek(0)
        return self._file

    def _add_sound(self, *, until: float) -> None:
        num_samples = 0
        for block in self._sound(until):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = OVERLAY_RATE, num_samples
            num_samples += block.shape[1]
            self._container.mux(self._audio.encode(frame))
        self._container.mux(self._audio.encode(None))
