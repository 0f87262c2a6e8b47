"""Masks of every kind mean what a viewer shows, and what is not clear is refused with the file's name."""

import io
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from layouts import write_avss, write_ms3
from PIL import Image, ImageFilter

from sdavs_model.data.benchmarks.palette import palette, read_class_mask, read_colours
from sdavs_model.data.core.mask_files import read_binary_mask, read_index_mask
from sdavs_model.data.core.statistics import statistics
from sdavs_model.data.datasets import open_splits
from sdavs_model.data.tools.validate import validate

SQUARE = np.zeros((48, 64), np.uint8)
SQUARE[10:30, 10:34] = 1
WHITE = SQUARE * np.uint8(255)


def in_palette(indices: np.ndarray, colours: list[int]) -> Image.Image:
    image = Image.fromarray(indices).convert("P")
    image.putpalette(colours + [0] * (768 - len(colours)))
    return image


def with_alpha(grey: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha)))


def as_jpeg(image: Image.Image, quality: int = 75) -> Image.Image:
    """What is left of it, still a JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue()))


def transparent_palette() -> Image.Image:
    image = in_palette(1 - SQUARE, [255, 255, 255, 255, 0, 0])
    image.info["transparency"] = 1
    return image


def png(depth: int, kind: int, samples: np.ndarray, *, transparent: bytes = b"") -> bytes:
    """A PNG of any depth (1 to 16 bit) and kind (0 grey, 2 RGB, 4 with alpha), which Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    flat = samples.reshape(len(samples), -1)
    if depth == 16:
        lines = [row.astype(">u2").tobytes() for row in flat]
    else:
        bits = np.unpackbits(flat.astype(np.uint8)[..., None], axis=2)[..., 8 - depth :]
        lines = [row.tobytes() for row in np.packbits(bits.reshape(len(flat), -1), axis=1)]
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], depth, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"tRNS", transparent) if transparent else b"")
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines)))
        + chunk(b"IEND", b"")
    )


OPAQUE = np.full_like(WHITE, 255)
EYE = np.eye(48, 64, dtype=np.uint8)
RED = np.stack([SQUARE * np.uint8(128), 0 * SQUARE, 0 * SQUARE], axis=2)

SQUARES = {
    "black and white of one bit": Image.fromarray(WHITE).convert("1"),
    "grey 0 and 255": Image.fromarray(WHITE),
    "grey 0 and 1": Image.fromarray(SQUARE),
    "grey 0 and 38": Image.fromarray(SQUARE * np.uint8(38)),
    "grey with opaque alpha": with_alpha(WHITE, OPAQUE),
    "white with the mask as alpha": with_alpha(OPAQUE, WHITE),
    "grey whose invisible pixels are black": with_alpha(WHITE, WHITE | (255 * EYE)),
    "16 bit, 0 and 65535": Image.fromarray(SQUARE * np.uint16(65535)),
    "16 bit, 0 and 1": Image.fromarray(SQUARE.astype(np.uint16)),
    "a palette whose first colour is black": in_palette(SQUARE, [0, 0, 0, 200, 10, 10]),
    "a palette whose first colour is white": in_palette(1 - SQUARE, [255, 255, 255, 0, 0, 0]),
    "a palette of greys": Image.fromarray(WHITE).convert("P"),
    "a palette with classes' colours": in_palette(SQUARE * np.uint8(2), palette(71).reshape(-1).tolist()),
    "a palette with a transparent colour": transparent_palette(),
    "colours": Image.fromarray(RED),
    "colours with opaque alpha": Image.fromarray(RED).convert("RGBA"),
    "black and white in three channels": Image.fromarray(WHITE).convert("RGB"),
    "two classes as colours": Image.fromarray(palette(71)[SQUARE + (np.arange(64) > 20) * SQUARE]),
}


@pytest.mark.parametrize("kind", SQUARES)
def test_the_same_square_is_read_from_every_kind_of_file(tmp_path, kind):
    SQUARES[kind].save(tmp_path / "mask.png")
    mask = read_binary_mask(tmp_path / "mask.png")
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, SQUARE)


SQUARE_FILES = {
    "grey of 2 bit": png(2, 0, SQUARE),
    "grey of 4 bit": png(4, 0, 15 * SQUARE),
    "grey with transparent black": png(8, 0, WHITE, transparent=b"\0\0"),
    "colours of 16 bit": png(16, 2, np.repeat(SQUARE[..., None].astype(int) * 65535, 3, axis=2)),
    "colours of 16 bit that are 0 and 1": png(16, 2, np.repeat(SQUARE[..., None], 3, axis=2)),
}


@pytest.mark.parametrize("kind", SQUARE_FILES)
def test_the_same_square_is_read_from_pngs_of_every_depth(tmp_path, kind):
    (tmp_path / "mask.png").write_bytes(SQUARE_FILES[kind])
    np.testing.assert_array_equal(read_binary_mask(tmp_path / "mask.png"), SQUARE)


def test_a_soft_edge_of_alpha_is_halved_like_one_of_grey(tmp_path):
    alpha = Image.fromarray(WHITE).resize((128, 96), Image.Resampling.BILINEAR)
    Image.merge("LA", (Image.new("L", (128, 96), 255), alpha)).save(tmp_path / "mask.png")
    mask = read_binary_mask(tmp_path / "mask.png")
    np.testing.assert_array_equal(mask, SQUARE.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize("lossless", [True, False])
def test_near_blacks_of_webp_are_background(tmp_path, lossless):
    Image.fromarray(WHITE).convert("RGB").save(tmp_path / "mask.webp", quality=80, lossless=lossless)
    for name in ("mask.webp", "converted.png"):
        Image.open(tmp_path / "mask.webp").convert("RGB").save(tmp_path / "converted.png")
        np.testing.assert_array_equal(read_binary_mask(tmp_path / name), SQUARE)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("quality", [30, 60, 75, 95])
def test_the_ringing_of_jpeg_is_taken_for_the_black_and_white_that_it_was(tmp_path, mode, quality):
    image = as_jpeg(Image.fromarray(WHITE).convert(mode), quality)
    (tmp_path / "mask.png").write_bytes(image.fp.getvalue())  # a JPEG under another name
    np.testing.assert_array_equal(read_binary_mask(tmp_path / "mask.png"), SQUARE)
    if quality >= 60:
        image.convert(mode).save(tmp_path / "converted.png")
        np.testing.assert_array_equal(read_binary_mask(tmp_path / "converted.png"), SQUARE)


def test_an_empty_and_a_full_mask_are_empty_and_full_also_as_jpeg(tmp_path):
    for value, mean in ((0, 0), (255, 1)):
        image = Image.new("L", (64, 48), value)
        image.save(tmp_path / "mask.png")
        image.save(tmp_path / "mask.jpg")
        assert read_binary_mask(tmp_path / "mask.png").mean() == mean
        assert read_binary_mask(tmp_path / "mask.jpg").mean() == mean
    # Noise of compression, as in the frame after the sound has ended.
    noise = np.random.default_rng(0).integers(0, 4, (48, 64), np.uint8)
    (tmp_path / "mask.jpg").write_bytes(as_jpeg(Image.fromarray(noise), 100).fp.getvalue())
    assert read_binary_mask(tmp_path / "mask.jpg").mean() == 0


def test_greys_along_the_edges_of_a_scaled_mask_are_halved(tmp_path):
    Image.fromarray(WHITE).resize((128, 96), Image.Resampling.BILINEAR).save(tmp_path / "mask.png")
    mask = read_binary_mask(tmp_path / "mask.png")
    np.testing.assert_array_equal(mask, SQUARE.repeat(2, axis=0).repeat(2, axis=1))


RNG = np.random.default_rng(0)
BELOW = np.tri(48, 64, dtype=np.uint8)
"""1 below the diagonal."""

ALMOST_BLACK = np.stack([SQUARE + BELOW, 0 * SQUARE, WHITE], axis=2)

UNCLEAR = {
    "greys everywhere": (RNG.integers(0, 256, (48, 64), np.uint8), "256 grey values"),
    "class indices in a binary data set": (SQUARE + SQUARE * BELOW, "3 grey values"),
    "class indices with 255 for what is left out": (SQUARE + SQUARE * BELOW | (255 - WHITE), "3 grey values"),
    "an area of grey between black and white": (WHITE // (1 + BELOW), "3 grey values"),
    "colours without black": (
        in_palette(SQUARE, [255, 255, 255, 255, 0, 0]),
        "none of its 2 colours is black",
    ),
    "a palette that is all black": (in_palette(SQUARE, []), "different indices the same colour"),
    "alpha and grey that contradict each other": (
        with_alpha(WHITE, WHITE[::-1].copy()),
        "two different masks",
    ),
    "colours almost black": (ALMOST_BLACK, "almost black"),
    "a mask that is invisible": (with_alpha(WHITE, 0 * WHITE), "two different masks"),
    "alpha around black": (with_alpha(0 * WHITE, WHITE), "two different masks"),
    "half transparent pixels": (with_alpha(WHITE, OPAQUE // 2), "partly transparent"),
    "a photograph": (RNG.integers(0, 256, (48, 64, 3), np.uint8), "colours; a mask has only a few"),
    "a blurred mask": (Image.fromarray(WHITE).filter(ImageFilter.GaussianBlur(6)), "grey values"),
}


@pytest.mark.parametrize("kind", UNCLEAR)
def test_what_is_not_clear_is_refused_with_the_name_of_the_file(tmp_path, kind):
    image, words = UNCLEAR[kind]
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=rf"{re.escape(str(tmp_path / 'mask.png'))}: .*{words}"):
        read_binary_mask(tmp_path / "mask.png")


UNCLEAR_FILES = {
    "grey whose white is transparent": (png(8, 0, WHITE, transparent=b"\0\xff"), "two different masks"),
    "one bit whose white is transparent": (png(1, 0, SQUARE, transparent=b"\0\1"), "two different masks"),
    "16 bit whose white is transparent": (
        png(16, 0, SQUARE * np.uint16(65535), transparent=b"\xff\xff"),
        "two different masks",
    ),
    "grey of 16 bit with alpha, both small": (
        png(16, 4, np.stack([SQUARE, SQUARE], axis=2)),
        "black in the upper eight",
    ),
}


@pytest.mark.parametrize("kind", UNCLEAR_FILES)
def test_files_that_are_not_clear_are_refused_with_their_name(tmp_path, kind):
    content, words = UNCLEAR_FILES[kind]
    (tmp_path / "mask.png").write_bytes(content)
    with pytest.raises(ValueError, match=rf"mask\.png: .*{words}"):
        read_binary_mask(tmp_path / "mask.png")


def test_a_compressed_mask_in_colours_and_one_of_0_and_1_are_refused(tmp_path):
    red = as_jpeg(Image.fromarray(np.stack([WHITE, 0 * WHITE, 0 * WHITE], axis=2)), 95)
    red.convert("RGB").save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"mask\.png: some of its \d+ colours are almost black"):
        read_binary_mask(tmp_path / "mask.png")
    Image.fromarray(SQUARE).save(tmp_path / "mask.jpg", quality=100)
    with pytest.raises(ValueError, match=r"mask\.jpg: a JPEG that is almost black"):
        read_binary_mask(tmp_path / "mask.jpg")


@pytest.mark.parametrize("suffix", ["png", "gif", "tif"])
def test_a_file_of_several_pictures_is_no_mask(tmp_path, suffix):
    path = tmp_path / f"mask.{suffix}"
    Image.fromarray(WHITE).save(path, save_all=True, append_images=[Image.fromarray(255 - WHITE)])
    with pytest.raises(ValueError, match=rf"mask\.{suffix}: .*holds 2 pictures"):
        read_binary_mask(path)


def test_a_mask_of_another_colour_space_is_refused(tmp_path):
    Image.new("CMYK", (64, 48)).save(tmp_path / "mask.jpg")
    with pytest.raises(ValueError, match=r"mask\.jpg: .*CMYK is not a mask format"):
        read_binary_mask(tmp_path / "mask.jpg")


CLASSES = np.array([[0, 3], [70, 5]], np.uint8)
SHUFFLED = np.array([[2, 0], [3, 1]], np.uint8)
"""The same, by a palette that begins with the classes 3, 5, 0, 70."""


def test_class_indices_are_read_from_greys_and_from_a_palette_in_any_order(tmp_path):
    kinds = {
        "grey": Image.fromarray(CLASSES),
        "16 bit": Image.fromarray(CLASSES.astype(np.uint16)),
        "grey with alpha": with_alpha(CLASSES, np.full_like(CLASSES, 255)),
        "grey with a transparent background": with_alpha(CLASSES, (CLASSES > 0) * np.uint8(255)),
        "three channels": Image.fromarray(CLASSES).convert("RGB"),
        "colours": Image.fromarray(palette(71)[CLASSES]),
        "classes' palette": in_palette(CLASSES, palette(71).reshape(-1).tolist()),
        "a palette that is all black": in_palette(CLASSES, []),
        "classes' palette, shuffled": in_palette(SHUFFLED, palette(71)[[3, 5, 0, 70]].reshape(-1).tolist()),
        "greys in a palette, shuffled": in_palette(SHUFFLED, np.repeat([3, 5, 0, 70], 3).tolist()),
        "colours of one's own": in_palette(CLASSES, np.random.default_rng(0).integers(1, 256, 768).tolist()),
    }
    for kind, image in kinds.items():
        image.save(tmp_path / "mask.png")
        mask = read_class_mask(tmp_path / "mask.png", 71)
        assert mask.tolist() == CLASSES.tolist(), kind


def test_class_indices_that_are_not_clear_or_too_large_are_refused(tmp_path):
    path = tmp_path / "mask.png"
    in_palette(np.array([[1, 0]], np.uint8), [0, 0, 0, 64, 64, 64]).save(
        path
    )  # class 56's colour, and index 64
    with pytest.raises(ValueError, match=r"mask\.png: its greys are both"):
        read_class_mask(path, 71)
    Image.fromarray(np.array([[71]], np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"mask\.png: values up to 71; allowed: class indices below 71"):
        read_class_mask(path, 71)
    Image.fromarray(7 * SQUARE).save(path.with_suffix(".jpg"), quality=95)
    with pytest.raises(ValueError, match=r"mask\.jpg: a JPEG, which changes class indices"):
        read_class_mask(path.with_suffix(".jpg"), 71)
    path.write_bytes(png(4, 0, np.array([[0, 1]], np.uint8)))  # the class 1 as stored, 17 as shown
    with pytest.raises(ValueError, match=r"mask\.png: its greys of less than 8 bit"):
        read_class_mask(path, 71)
    path.write_bytes(png(4, 0, np.array([[0, 6]], np.uint8)))
    assert read_class_mask(path, 71).tolist() == [[0, 6]], "there is no class 102"
    Image.new("RGB", (2, 2), (1, 2, 3)).save(path)
    with pytest.raises(ValueError, match=r"mask\.png: has colours that belong to no class"):
        read_class_mask(path, 71)


def test_masks_in_colours_are_read_from_a_palette_too(tmp_path):
    path = tmp_path / "mask.png"
    in_palette(SHUFFLED, palette(71)[[3, 5, 0, 70]].reshape(-1).tolist()).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_colours(path, 71).tolist() == CLASSES.tolist()
    Image.fromarray(CLASSES).save(path)
    with pytest.raises(ValueError, match=r"mask\.png: a mask in colours"):
        read_colours(path, 71)


def test_numbers_of_other_data_sets_are_read_from_greys_and_else_from_the_palettes_indices(tmp_path):
    numbers = np.array([[0, 18, 255]], np.uint8)
    for image in (
        Image.fromarray(numbers),
        Image.fromarray(numbers).convert("RGB"),
        in_palette(np.array([[1, 2, 0]], np.uint8), np.repeat([255, 0, 18], 3).tolist()),
        in_palette(numbers, np.random.default_rng(0).integers(0, 256, 768).tolist()),
    ):
        image.save(tmp_path / "mask.png")
        assert read_index_mask(tmp_path / "mask.png").tolist() == numbers.tolist()


@pytest.mark.parametrize("kind", ["grey with opaque alpha", "a palette whose first colour is white"])
def test_validation_and_statistics_see_the_same_square_as_training(tmp_path, kind):
    write_ms3(tmp_path)
    masks = tmp_path / "Multi-sources" / "ms3_data" / "gt_masks" / "train"
    for path in masks.rglob("*.png"):
        SQUARES[kind].resize((24, 16), Image.Resampling.NEAREST).save(path)
    fraction = np.asarray(Image.fromarray(WHITE).resize((24, 16), Image.Resampling.NEAREST)).mean() / 255
    assert validate(tmp_path).defects == ()
    clips = open_splits(tmp_path)["train"]
    assert statistics(clips)["mean_share_of_pixels"] == round(fraction, 4)
    assert clips.clip(0).masks.mean() == pytest.approx(fraction)


def test_validation_lists_an_unclear_mask_once(tmp_path):
    write_ms3(tmp_path)
    path: Path = next((tmp_path / "Multi-sources" / "ms3_data" / "gt_masks" / "train").rglob("*.png"))
    in_palette(np.zeros((16, 24), np.uint8) + np.eye(16, 24, dtype=np.uint8), []).save(path)
    (defect,) = validate(tmp_path).defects
    assert defect.startswith(f"{path}: its palette gives")


def test_semantic_masks_of_a_whole_data_set_are_read_in_colours_and_as_indices(tmp_path):
    top = write_avss(tmp_path)
    before = open_splits(tmp_path)["test"].clip(0).masks
    for path in (top / "v1s" / "d" / "labels_semantic").iterdir():
        indices = np.asarray(Image.open(path))
        in_palette(indices, palette(5).reshape(-1).tolist()).save(path)
    np.testing.assert_array_equal(open_splits(tmp_path)["test"].clip(0).masks, before)
