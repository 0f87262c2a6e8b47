"""Masks -> response bodies: JSON with run lengths, one png, or a zip of pngs; and what they are drawn with.

Every writer takes frames one after the other and writes them to a file on disk. So memory does not grow with the number
of frames, and nothing is sent before the response is complete.
"""

import functools
import io
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import IO, Protocol

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from sdavs_serve.errors import RequestError
from sdavs_serve.model_calls import Regions, Sound, mask_of
from sdavs_serve.schema import AnswerHead, ClassMask, FrameMask, HeardSound, Rle, Timeline, Timings

OVERLAY_OPACITY = 0.45

COLOURS = np.array(
    [
        (0, 0, 0),
        (255, 48, 64),
        (48, 160, 255),
        (255, 200, 40),
        (80, 220, 120),
        (200, 90, 255),
        (255, 140, 60),
    ],
    np.uint8,
)
"""Colours of the classes: background, then the class of binary models. With more classes the colours repeat."""

PALETTE = np.vstack([COLOURS[:1], np.resize(COLOURS[1:], (255, 3))])
"""[256, 3]: the colour of every value that a mask can have."""


@dataclass(frozen=True, kw_only=True)
class SegmentedFrame:
    """One frame with its mask."""

    index: int
    time_s: float
    picture: np.ndarray | None
    """[H, W, 3] uint8, for the writers that draw on it."""
    size: tuple[int, int]
    """Height and width."""
    regions: Regions
    """Where the classes are; the background is none of them."""
    sounds: list[Sound] | None = None
    """The classes heard; None from models that do not report them."""

    @functools.cached_property
    def mask(self) -> np.ndarray:
        """[H, W] uint8, class of each pixel; 0 is background, binary models have only 1."""
        return mask_of(self.regions, self.size)

    def to_schema(self, classes: list[str]) -> FrameMask:
        """The frame as in the JSON response; `classes` are the model's, background first.

        The regions' run lengths go into it as they are; no mask is drawn for it.
        """
        num_inside = sum(region.num_pixels for region in self.regions.values())
        weighted = sum(region.score * region.num_pixels for region in self.regions.values())
        masks = [self._class_mask(value, classes[value]) for value in self.regions]
        return FrameMask(
            index=self.index,
            time_s=self.time_s,
            size=self.size,
            rle=self._together(),
            score=weighted / num_inside if num_inside else 0.0,
            area=num_inside / (self.size[0] * self.size[1]),
            classes=masks if len(classes) > 2 else None,
            sounds=None if self.sounds is None else [HeardSound(**asdict(sound)) for sound in self.sounds],
        )

    def _class_mask(self, value: int, name: str) -> ClassMask:
        region = self.regions[value]
        area = region.num_pixels / (self.size[0] * self.size[1])
        rle = Rle(size=self.size, counts=region.counts.decode("ascii"))
        return ClassMask(index=value, name=name, rle=rle, score=region.score, area=area)

    def _together(self) -> Rle:
        """All classes in one mask."""
        if not self.regions:
            return encode_rle(np.zeros(self.size, np.uint8))
        parts = [{"size": list(self.size), "counts": region.counts} for region in self.regions.values()]
        return Rle(size=self.size, counts=coco.merge(parts)["counts"].decode("ascii"))


class Writer(Protocol):
    """Writes one response."""

    media_type: str
    draws: bool
    """Whether it needs the frames' pictures."""

    def add(self, frame: SegmentedFrame) -> None:
        """Add the next frame."""

    def finish(self, timings: Timings, timeline: Timeline | None = None) -> IO[bytes]:
        """The response body, rewound."""


class JsonWriter:
    """`application/json`: `SegmentAnswer`."""

    media_type = "application/json"
    draws = False

    def __init__(self, head: AnswerHead, classes: list[str]) -> None:
        self._classes = classes
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it has been sent
        self._file.write(head.model_dump_json()[:-1].encode() + b',"frames":[')
        self._separator = b""

    def add(self, frame: SegmentedFrame) -> None:
        """Append the frame."""
        self._file.write(self._separator + frame.to_schema(self._classes).model_dump_json().encode())
        self._separator = b","

    def finish(self, timings: Timings, timeline: Timeline | None = None) -> IO[bytes]:
        """The JSON document."""
        ends = timeline.model_dump_json() if timeline else "null"
        self._file.write(f'],"timeline":{ends},"timings_ms":{timings.model_dump_json()}}}'.encode())
        return _rewound(self._file)


class PngWriter:
    """`image/png`: one frame's mask (0 and 255, or a palette of classes), or its overlay.

    Raises:
        RequestError: 422 at the end, if there is no such frame.
    """

    media_type = "image/png"

    def __init__(self, classes: list[str], *, index: int, overlay: bool) -> None:
        self.draws = overlay
        self._index = index
        self._draw = _drawing(classes, overlay=overlay)
        self._num_frames = 0
        self._body: bytes | None = None

    def add(self, frame: SegmentedFrame) -> None:
        """Keep the frame if it is the requested one."""
        self._num_frames += 1
        if frame.index == self._index:
            self._body = encode_png(self._draw(frame))

    def finish(self, timings: Timings, timeline: Timeline | None = None) -> IO[bytes]:
        """The picture."""
        if self._body is None:
            detail = f"there is no frame {self._index}; the clip has {self._num_frames}, counted from 0"
            raise RequestError(status=422, kind="invalid", detail=detail, field="frame")
        return io.BytesIO(self._body)


class ZipWriter:
    """`application/zip`: `00000.png`, `00001.png`, ... and the JSON response as `segmentation.json`."""

    media_type = "application/zip"

    def __init__(self, head: AnswerHead, classes: list[str], *, overlay: bool) -> None:
        self.draws = overlay
        self._draw = _drawing(classes, overlay=overlay)
        self._json = JsonWriter(head, classes)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it has been sent
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)  # png is compressed already

    def add(self, frame: SegmentedFrame) -> None:
        """Append the frame's png."""
        self._json.add(frame)
        self._zip.writestr(f"{frame.index:05d}.png", encode_png(self._draw(frame)))

    def finish(self, timings: Timings, timeline: Timeline | None = None) -> IO[bytes]:
        """The archive."""
        about = zipfile.ZipInfo("segmentation.json")
        about.compress_type = zipfile.ZIP_DEFLATED
        with self._json.finish(timings, timeline) as source, self._zip.open(about, "w") as target:
            shutil.copyfileobj(source, target)
        self._zip.close()
        return _rewound(self._file)


def encode_rle(mask: np.ndarray) -> Rle:
    """[H, W] uint8 of 0 and 1 -> COCO run lengths."""
    encoded = coco.encode(np.asfortranarray(mask))
    return Rle(size=tuple(encoded["size"]), counts=encoded["counts"].decode("ascii"))


def decode_rle(rle: Rle) -> np.ndarray:
    """COCO run lengths -> [H, W] uint8 of 0 and 1."""
    return coco.decode({"size": list(rle.size), "counts": rle.counts.encode("ascii")})


def encode_png(picture: Image.Image) -> bytes:
    """A png file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def draw_overlay(picture: np.ndarray | None, mask: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8 with the masked pixels tinted and the masks' outlines drawn in full colour.

    Args:
        picture: [H, W, 3] uint8.
        mask: [H, W] uint8, class of each pixel.
    """
    assert picture is not None, "a writer that draws gets pictures"
    inside = mask > 0
    colours = PALETTE[mask]
    padded = np.pad(mask, 1, mode="edge")
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    outline = inside & np.any([neighbour != mask for neighbour in neighbours], axis=0)
    drawn = picture.copy()
    tinted = picture[inside] * (1 - OVERLAY_OPACITY) + colours[inside] * OVERLAY_OPACITY
    drawn[inside] = tinted.round().astype(np.uint8)
    drawn[outline] = colours[outline]
    return drawn


def _drawing(classes: list[str], *, overlay: bool) -> Callable[[SegmentedFrame], Image.Image]:
    """Draw a frame: an overlay; 0 and 255 for a binary model; or class numbers with a palette."""
    if overlay:
        return lambda frame: Image.fromarray(draw_overlay(frame.picture, frame.mask))
    if len(classes) == 2:
        return lambda frame: Image.fromarray(frame.mask * np.uint8(255))
    return _with_palette


def _with_palette(frame: SegmentedFrame) -> Image.Image:
    picture = Image.fromarray(frame.mask)
    picture.putpalette(PALETTE.tobytes())
    return picture


def _rewound(file: IO[bytes]) -> IO[bytes]:
    file.seek(0)
    return file
