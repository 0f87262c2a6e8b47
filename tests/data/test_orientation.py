"""Pictures and videos are seen as a viewer shows them: turned, mirrored and stretched as their file says."""

import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from sdavs_model.data.core.images import read_picture
from sdavs_model.data.core.orientation import (
    frame_orientation,
    matrix_orientation,
    size_in_square_pixels,
    upright,
)

WIDTH, HEIGHT = 64, 48

MATRICES = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}
"""a, b, c, d of a track's matrix for each EXIF orientation."""

CORNERS = {1: "top left", 2: "top right", 3: "bottom right", 4: "bottom left"} | {
    5: "top left", 6: "top right", 7: "bottom right", 8: "bottom left"
}  # fmt: skip
"""Where a picture's stored top left corner is when it is shown."""


def stored_picture() -> np.ndarray:
    """Grey, the top left corner red, and the top right corner green so that transposing can be seen."""
    pixels = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    pixels[: HEIGHT // 3, : WIDTH // 3] = (220, 30, 30)
    pixels[: HEIGHT // 3, -WIDTH // 3 :] = (30, 220, 30)
    return pixels


def corner_of(pixels: np.ndarray, channel: int) -> str:
    """The corner in which a channel is bright and the others are not."""
    height, width = pixels.shape[0] // 6, pixels.shape[1] // 6
    corners = {
        "top left": pixels[height, width],
        "top right": pixels[height, -width],
        "bottom left": pixels[-height, width],
        "bottom right": pixels[-height, -width],
    }
    (found,) = [name for name, pixel in corners.items() if pixel[channel] > 150 and np.median(pixel) < 100]
    return found


def write_video(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """One picture as an mp4 whose track has this matrix."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        frame = av.VideoFrame.from_ndarray(stored_picture(), format="rgb24")
        out.mux([*stream.encode(frame), *stream.encode(None)])
    content = path.read_bytes()
    start = content.index(b"tkhd") + 44  # version 0: the matrix is 40 bytes behind the type
    a, b, c, d = (value << 16 for value in matrix)
    numbers = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:start] + numbers + content[start + 36 :])


def read_video(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
        return upright(frame.to_ndarray(format="rgb24"), frame_orientation(frame))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_of_the_eight_orientations_is_shown_as_pillow_shows_it(orientation):
    image = Image.fromarray(stored_picture())
    image.getexif()[274] = orientation
    shown = upright(stored_picture(), orientation)
    np.testing.assert_array_equal(shown, np.asarray(ImageOps.exif_transpose(image)))
    assert corner_of(shown, channel=0) == CORNERS[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_video_whose_matrix_turns_mirrors_or_transposes_is_shown_like_the_picture(tmp_path, orientation):
    write_video(tmp_path / "x.mp4", MATRICES[orientation])
    shown = read_video(tmp_path / "x.mp4")
    expected = upright(stored_picture(), orientation)
    assert shown.shape == expected.shape
    for channel in (0, 1):
        assert corner_of(shown, channel) == corner_of(expected, channel)


def test_a_matrix_of_another_angle_counts_as_the_nearest_and_one_of_zeros_as_none():
    def packed(a: float, b: float, c: float, d: float) -> bytes:
        one = 1 << 16
        return struct.pack("=9i", *(round(v * one) for v in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)

    assert matrix_orientation(packed(0.1, 0.99, -0.99, 0.1)) == 6
    assert matrix_orientation(packed(0.97, 0.2, -0.2, 0.97)) == 1
    assert matrix_orientation(bytes(36)) == 1


def test_pixels_that_are_not_square_are_enlarged_and_never_shrunk():
    assert size_in_square_pixels(64, 48, Fraction(4, 3)) == (85, 48)
    assert size_in_square_pixels(64, 48, Fraction(3, 4)) == (64, 64)
    assert size_in_square_pixels(64, 48, None) == (64, 48)


def test_a_still_picture_is_read_upright_as_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    for name in ("x.jpg", "x.png"):
        Image.fromarray(stored_picture()).save(tmp_path / name, exif=exif)
        pixels = read_picture(tmp_path / name)
        assert pixels.shape == (WIDTH, HEIGHT, 3)
        assert corner_of(pixels, channel=0) == "top right"


def test_greys_of_16_bit_are_shown_as_greys_of_8_bit(tmp_path):
    Image.fromarray(np.array([[0, 255, 257, 32896, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png")[0, :, 0].tolist() == [0, 1, 1, 128, 255]


def test_reading_an_orientation_keeps_no_frame_in_memory():
    frame = av.VideoFrame(64, 48, "yuv420p")
    held = sys.getrefcount(frame)
    assert frame_orientation(frame) == 1
    assert sys.getrefcount(frame) == held
