"""The overlay as an mp4 (H.264, AAC): the sampled frames with their masks, and the upload's own sound."""

from __future__ import annotations

import io
import math
from fractions import Fraction

import av
import numpy as np

from sdavs_serve.encode import AnsweredFrame, draw_overlay
from sdavs_serve.media import open_media, sound_format
from sdavs_serve.schema import SegmentAnswer

MIN_RATE = 10
"""Pictures a second in the file. Sampled frames are repeated up to it: players seek badly in slower video."""

SOUND_RATE = 48_000


class OverlayVideoWriter:
    """`video/mp4`: each sampled frame is shown for 1 / fps seconds.

    The frames between the samples are left out, because they have no mask of their own.
    """

    media_type = "video/mp4"

    def __init__(self, *, fps: float, sound: bytes) -> None:
        """
        Args:
            fps: sampled frames a second.
            sound: the uploaded file that holds the sound.
        """
        self._sound = sound
        self._repeats = max(1, math.ceil(MIN_RATE / fps))
        self._rate = (Fraction(fps) * self._repeats).limit_denominator(1001)
        self._file = io.BytesIO()
        self._container = av.open(self._file, "w", format="mp4")
        self._video = self._container.add_stream(
            "libx264", rate=self._rate, options={"preset": "veryfast", "crf": "20"}
        )
        self._video.pix_fmt = "yuv420p"
        self._audio = self._container.add_stream("aac", rate=SOUND_RATE, layout="stereo")
        self._num_pictures = 0

    def add(self, frame: AnsweredFrame) -> None:
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

    def finish(self, answer: SegmentAnswer) -> bytes:
        """The file."""
        self._container.mux(self._video.encode(None))
        self._add_sound(until=float(self._num_pictures / self._rate))
        self._container.close()
        return self._file.getvalue()

    def _add_sound(self, *, until: float) -> None:
        """Re-encode the upload's sound, at its own channels' best stereo, up to the last picture's end."""
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=SOUND_RATE)
        kind = sound_format(self._sound)
        assert kind is not None, "decoding has already read this sound"
        with open_media(self._sound, kind) as source:
            for frame in source.decode(audio=0):
                if frame.time is not None and frame.time >= until:
                    break
                for part in resampler.resample(frame):
                    self._container.mux(self._audio.encode(part))
            for part in resampler.resample(None):
                self._container.mux(self._audio.encode(part))
        self._container.mux(self._audio.encode(None))
