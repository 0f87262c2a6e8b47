"""Masks -> what a client asked for: JSON with run lengths, one png, a zip of pngs, or an overlay video.

Every writer takes frames one after the other and keeps only their encoded form.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from sdavs_serve.errors import RequestError
from sdavs_serve.schema import FrameMask, Rle, SegmentAnswer

OVERLAY_COLOUR = np.array([255, 48, 64], np.float32)
OVERLAY_OPACITY = 0.45


@dataclass(frozen=True, kw_only=True)
class AnsweredFrame:
    """One frame with its mask, on the way to the client."""

    index: int
    time_s: float
    picture: np.ndarray
    """[H, W, 3] uint8."""
    mask: np.ndarray
    """[H, W] uint8, 0 or 1."""
    score: float

    def to_schema(self) -> FrameMask:
        """The frame as JSON."""
        return FrameMask(
            index=self.index,
            time_s=self.time_s,
            size=self.mask.shape,
            rle=encode_rle(self.mask),
            score=self.score,
            area=float(self.mask.mean()),
        )


class Writer(Protocol):
    """One answer in the making."""

    media_type: str

    def add(self, frame: AnsweredFrame) -> None:
        """Take the next frame."""

    def finish(self, answer: SegmentAnswer) -> bytes:
        """The body of the HTTP answer."""


class JsonWriter:
    """`application/json`: the answer itself."""

    media_type = "application/json"

    def add(self, frame: AnsweredFrame) -> None:
        """Nothing to keep: the answer collects every frame's run lengths anyway."""

    def finish(self, answer: SegmentAnswer) -> bytes:
        """The answer as JSON."""
        return answer.model_dump_json().encode()


class PngWriter:
    """`image/png`: one frame's mask (0 and 255), or its overlay.

    Raises:
        RequestError: 422 at the end, if there is no such frame.
    """

    media_type = "image/png"

    def __init__(self, *, index: int, overlay: bool) -> None:
        self._index = index
        self._overlay = overlay
        self._body: bytes | None = None

    def add(self, frame: AnsweredFrame) -> None:
        """Keep the one frame."""
        if frame.index == self._index:
            self._body = encode_png(_picture_of(frame, overlay=self._overlay))

    def finish(self, answer: SegmentAnswer) -> bytes:
        """The picture."""
        if self._body is None:
            detail = f"there is no frame {self._index}; the clip has {len(answer.frames)}, counted from 0"
            raise RequestError(status=422, kind="invalid", detail=detail, field="frame")
        return self._body


class ZipWriter:
    """`application/zip`: `00000.png`, `00001.png`, ... and the answer as `segmentation.json`."""

    media_type = "application/zip"

    def __init__(self, *, overlay: bool) -> None:
        self._overlay = overlay
        self._file = io.BytesIO()
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)  # png is compressed already

    def add(self, frame: AnsweredFrame) -> None:
        """Append the frame's png."""
        self._zip.writestr(f"{frame.index:05d}.png", encode_png(_picture_of(frame, overlay=self._overlay)))

    def finish(self, answer: SegmentAnswer) -> bytes:
        """The archive."""
        self._zip.writestr("segmentation.json", answer.model_dump_json(), zipfile.ZIP_DEFLATED)
        self._zip.close()
        return self._file.getvalue()


def encode_rle(mask: np.ndarray) -> Rle:
    """[H, W] uint8 of 0 and 1 -> COCO run lengths."""
    encoded = coco.encode(np.asfortranarray(mask))
    return Rle(size=tuple(encoded["size"]), counts=encoded["counts"].decode("ascii"))


def decode_rle(rle: Rle) -> np.ndarray:
    """COCO run lengths -> [H, W] uint8 of 0 and 1."""
    return coco.decode({"size": list(rle.size), "counts": rle.counts.encode("ascii")})


def encode_png(picture: np.ndarray) -> bytes:
    """[H, W] or [H, W, 3] uint8 -> a png file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def draw_overlay(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8 with the masked pixels tinted and the mask's outline drawn in full colour."""
    inside = mask.astype(bool)
    padded = np.pad(inside, 1, mode="edge")
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    outline = inside & ~core
    drawn = picture.copy()
    tinted = picture[inside] * (1 - OVERLAY_OPACITY) + OVERLAY_COLOUR * OVERLAY_OPACITY
    drawn[inside] = tinted.round().astype(np.uint8)
    drawn[outline] = OVERLAY_COLOUR.astype(np.uint8)
    return drawn


def _picture_of(frame: AnsweredFrame, *, overlay: bool) -> np.ndarray:
    return draw_overlay(frame.picture, frame.mask) if overlay else frame.mask * np.uint8(255)
