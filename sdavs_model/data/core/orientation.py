"""Turns pictures and video frames upright, as viewers and players do: rotated, mirrored and stretched by their
metadata.

Cameras store pictures as the sensor lies and note how to turn them: photographs in EXIF, videos in a display matrix.
Both name one of the same eight orientations, numbered from 1 to 8 in EXIF (its tag 274).
"""

import struct
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    # PyAV takes a moment to import, and data sets of pictures and wav files need none of it.
    import av

UPRIGHT = 1
EXIF_ORIENTATION = 274

# Where the stored axes point when shown, (right: x, y; down: x, y), in EXIF's order.
_AXES = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}


def exif_orientation(image: Image.Image) -> int:
    """EXIF's orientation of a picture, 1 to 8; 1 if it is missing or invalid."""
    orientation = image.getexif().get(EXIF_ORIENTATION, UPRIGHT)
    return orientation if orientation in _AXES.values() else UPRIGHT


def matrix_orientation(matrix: bytes) -> int:
    """1 to 8 for FFmpeg's display matrix (nine 32-bit integers); other angles count as the nearest right angle."""
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    is_upright = abs(a) + abs(d) >= abs(b) + abs(c)
    axes = (_sign(a), 0, 0, _sign(d)) if is_upright else (0, _sign(b), _sign(c), 0)
    return _AXES.get(axes, UPRIGHT)


def frame_orientation(frame: "av.VideoFrame") -> int:
    """The orientation in a decoded frame's display matrix, 1 to 8; 1 if it has none."""
    from av.sidedata.sidedata import SideDataContainer

    # Not `frame.side_data`, which frame and container hold each other by: frames would pile up until Python looks for
    # cycles, half a gigabyte of them in ten minutes of 1080p.
    matrix: Any = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg] # the stub has no __init__
    return UPRIGHT if matrix is None else matrix_orientation(bytes(matrix))


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn a stored picture [H, W] or [H, W, 3] upright; from 5 on height and width are swapped."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def size_in_square_pixels(width: int, height: int, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """Width and height of a stored picture without distortion: the shorter side of its pixels is enlarged.

    Args:
        width: of the stored picture.
        height: of the stored picture.
        pixel_aspect: width / height of a pixel, a stream's `sample_aspect_ratio`; None or 0 for square ones.
    """
    if not pixel_aspect:
        return width, height
    if pixel_aspect >= 1:
        return round(width * pixel_aspect), height
    return width, round(height / pixel_aspect)


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)
