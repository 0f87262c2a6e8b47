"""Ground-truth masks, read from pictures of any kind: grey, with alpha, with a palette, in colours, 16-bit.

The pixels of a mask have few different values. Each is looked up as a viewer shows it (a palette's order is up to the
program that saved it), and what is ambiguous is refused with the file's name.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageFilter

from sdavs_model.data.core.images import opened
from sdavs_model.data.core.orientation import exif_orientation, upright

NEAR = 31
"""How far the ringing of compression takes black and white from 0 and 255; the darkest class colour is 32."""
EDGE = 5
"""Side of the square around a grey pixel in which both black and white must be, as along a blurred or scaled edge."""
JPEG_EDGE = 15
"""The same in a JPEG, whose ringing fills blocks of 8 pixels."""
SPECK = 9
"""Side of a square that noise of compression does not fill without a gap."""
MAX_COLOURS = 256
"""More different colours are a photograph, no mask."""


@dataclass(frozen=True, kw_only=True)
class Values:
    """A picture as a map of indices into the n different values of its pixels."""

    indices: np.ndarray
    """[H, W], upright; into the arrays below."""
    colours: np.ndarray
    """[n, 3] float from 0 to 255, as shown."""
    alpha: np.ndarray
    """[n] from 0 (invisible) to 255."""
    numbers: np.ndarray | None
    """[n]: what the file holds for each, a grey or a palette's index; None where it holds colours or alpha."""
    has_palette: bool
    is_jpeg: bool
    step: int = 1
    """How much brighter a grey becomes when the file's number goes up by 1: 85 in files of 2 bit, 17 of 4 bit."""

    @property
    def is_grey(self) -> bool:
        """Whether no value has a colour."""
        return bool((self.colours == self.colours[:, :1]).all())


def read_binary_mask(path: Path) -> np.ndarray:
    """[H, W] uint8: 1 where something sounds, 0 for the background, which is black.

    Black and one other grey, 0 and 1, black and colours, or JPEG's black and white. Alpha alone is a mask where what
    is visible has no black; else invisible pixels must be black. Greys and alpha along edges are halved.

    Raises:
        ValueError: no readable picture; or it is not clear what is meant: greys between black and white, almost black
            colours, no black, transparency that contradicts the colours. Names the file.
    """
    values = read_values(path)
    black = _black(path, values)
    visible, hidden = values.alpha >= 128, values.alpha < 128
    between = (values.alpha > 0) & (values.alpha < 255)
    if between.any() and not _is_edge(values, between, ~between & visible, ~between & hidden):
        raise ValueError(
            f"{path}: is partly transparent; each pixel of a mask must be fully visible or fully transparent"
        )
    sounds = ~black & visible
    if not visible.any():
        # An empty mask, unless its colours, which nobody sees, are one.
        contradicts = black.any() and not black.all()
    elif sounds.sum() == visible.sum():
        contradicts = False
    else:
        contradicts = hidden.any() and not (sounds.any() and black[hidden].all())
    if contradicts:
        raise ValueError(
            f"{path}: its transparency and its colours give two different masks; save only one of them"
        )
    return sounds.astype(np.uint8)[values.indices]


def read_index_mask(path: Path) -> np.ndarray:
    """[H, W]: the number of each pixel: its grey, also from a palette or from equal channels, else its palette's index.

    Raises:
        ValueError: no readable picture, partly transparent, or in colours without a palette; names the file.
    """
    values = read_values(path)
    require_opaque(path, values)
    numbers = values.numbers
    require_one_number(path, values)
    if values.is_grey and (numbers is None or (values.has_palette and values.colours.any())):
        numbers = values.colours[:, 0].astype(np.int64)
    if numbers is None:
        raise ValueError(f"{path}: is in colours; a mask of class indices was expected")
    return numbers[values.indices]


def require_one_number(path: Path, values: Values) -> None:
    """Raises ValueError naming the file if it is not clear which numbers it holds.

    They differ as stored and as shown in greys of 2 and 4 bit, and JPEG changes them.
    """
    if values.is_jpeg and len(values.colours) > 1:
        raise ValueError(f"{path}: a JPEG, which changes class indices; save it as png")
    if values.step > 1 and values.colours.any():
        raise ValueError(
            f"{path}: its greys of less than 8 bit are one number as stored and another as shown; save it with 8 bits"
        )


def require_opaque(path: Path, values: Values) -> None:
    """Raises ValueError naming the file if any pixel but the black ones of the background is transparent."""
    invisible_black = (values.alpha == 0) & (values.colours == 0).all(axis=1)
    if ((values.alpha != 255) & ~invisible_black).any():
        raise ValueError(f"{path}: is partly transparent, so its values are ambiguous")


def read_values(path: Path) -> Values:
    """A mask's values as stored and as shown.

    Raises:
        ValueError: no readable picture, of a mode that no mask has, or of too many colours; names the file.
    """
    with opened(path) as image:
        num_pictures = getattr(image, "n_frames", 1)
        if image.format != "MPO" and num_pictures > 1:
            raise ValueError(f"it holds {num_pictures} pictures; a mask is one")
        coding = _coding(image)
        image.load()
        orientation, is_jpeg = exif_orientation(image), image.format in ("JPEG", "MPO")
        if is_jpeg and image.mode == "RGB" and np.ptp(np.asarray(image), axis=2).max(initial=0) <= NEAR:
            image = image.convert("L")
        if image.mode in ("1", "L", "I", "I;16", "I;16B", "I;16L"):
            pixels, colours, alpha = _greys(image)
        elif image.mode == "P":
            pixels, colours, alpha = _palette(image)
        elif image.mode in ("LA", "PA", "RGB", "RGBA"):
            pixels, colours, alpha = _packed(image)
            if ";16" in coding and not colours[np.unique(pixels)].any():
                pixels, colours, alpha = _lower_bytes(path, coding)
        else:
            raise ValueError(f"{image.mode} is not a mask format")
    used = np.flatnonzero(np.bincount(pixels.reshape(-1), minlength=len(colours)))
    new_index = np.zeros(len(colours), np.int32)
    new_index[used] = np.arange(len(used))
    return Values(
        indices=upright(new_index[pixels], orientation),
        colours=colours[used].astype(np.float64),
        alpha=alpha[used],
        numbers=None if image.mode in ("LA", "PA", "RGB", "RGBA") else used,
        has_palette=image.mode == "P",
        is_jpeg=is_jpeg,
        step={"L;2": 85, "L;4": 17}.get(coding, 1),
    )


Table = tuple[np.ndarray, np.ndarray, np.ndarray]
"""[H, W] indices, [n, 3] colours, [n] alpha."""


def _coding(image: Image.Image) -> str:
    """How Pillow names the coding of a file's pixels, such as "L;4"; "" where it does not."""
    tiles = getattr(image, "tile", [])
    arguments = tiles[0].args if tiles else None
    coding = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return coding if isinstance(coding, str) else ""


def _lower_bytes(path: Path, coding: str) -> Table:
    """A picture in colours of 16 bit that are below 256; Pillow reads the upper bytes."""
    # Read as if the lower byte came first, their order is the other one.
    swapped = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}.get(coding)
    if swapped is None:
        raise ValueError("its 16 bits are black in the upper eight; save it with 8 bits")
    with Image.open(path) as image:
        assert isinstance(image, ImageFile.ImageFile)
        image.tile = [image.tile[0]._replace(args=swapped)]
        image.load()
        return _packed(image)


def _greys(image: Image.Image) -> Table:
    hidden = image.info.get("transparency")
    if image.mode == "1":
        alpha = np.full(2, 255)
        if hidden is not None:
            alpha[int(hidden > 0)] = 0
        return np.asarray(image).astype(np.uint8), np.array([[0] * 3, [255] * 3]), alpha
    pixels = np.asarray(image).astype(np.int64)
    if pixels.min(initial=0) < 0 or pixels.max(initial=0) > 65535:
        raise ValueError(f"holds values up to {pixels.max(initial=0)}; a mask has 8 or 16 bits")
    # White is 65535 of 16 bit; a file of 16 bit that uses only the lowest eight is read as one of 8 bit.
    size = 256 if pixels.max(initial=0) < 256 else 65536
    shown = np.arange(size) * 255 / (size - 1)
    alpha = np.full(size, 255)
    if hidden is not None and hidden < size:
        alpha[hidden] = 0
    return pixels, np.repeat(shown[:, None], 3, axis=1), alpha


def _palette(image: Image.Image) -> Table:
    image.apply_transparency()
    flat = image.getpalette("RGBA") or []
    table = np.zeros((256, 4), np.int64)
    table[:, 3] = 255
    table[: len(flat) // 4] = np.array(flat, np.int64).reshape(-1, 4)
    return np.asarray(image), table[:, :3], table[:, 3]


def _packed(image: Image.Image) -> Table:
    rgba = np.ascontiguousarray(np.asarray(image.convert("RGBA")))
    red, green, blue, alpha = (rgba[..., channel] for channel in range(4))
    if (red == green).all() and (red == blue).all() and (alpha == 255).all():
        # The common case, without sorting all pixels.
        return red, np.repeat(np.arange(256)[:, None], 3, axis=1), np.full(256, 255)
    values, inverse = np.unique(rgba.view(np.uint32)[..., 0], return_inverse=True)
    table = values.view(np.uint8).reshape(-1, 4).astype(np.int64)
    return inverse.reshape(rgba.shape[:2]), table[:, :3], table[:, 3]


def _black(path: Path, values: Values) -> np.ndarray:
    """[n] bool: which values are background. Raises ValueError if that is not clear."""
    level = values.colours.max(axis=1)
    shown = values.alpha > 0
    num_shown = len(np.unique(values.colours[shown], axis=0))
    is_greyish = np.ptp(values.colours, axis=1).max(initial=0) <= NEAR
    if values.is_jpeg or (is_greyish and num_shown > 2):
        return _dark(path, values)
    if len(level) > MAX_COLOURS:
        raise ValueError(f"{path}: {len(level)} colours; a mask has only a few")
    if shown.all() and len(level) > 1 and (level == level[0]).all() and values.is_grey:
        raise ValueError(f"{path}: its palette gives different indices the same colour")
    if shown.all() and len(level) > 1 and not (level == 0).any():
        raise ValueError(f"{path}: none of its {len(level)} colours is black, so the background is ambiguous")
    if num_shown > 2 and ((level[shown] > 0) & (level[shown] <= NEAR)).any():
        raise ValueError(
            f"{path}: some of its {num_shown} colours are almost black, so the background is ambiguous"
        )
    return level == 0


def _dark(path: Path, values: Values) -> np.ndarray:
    """The same where compression or scaling has left greys near black, near white and, along edges, in between."""
    level = values.colours.max(axis=1)
    dark, bright = level <= NEAR, level >= 255 - NEAR
    between = ~(dark | bright)
    # 255 alone next to small numbers is how masks of class indices mark what is left out.
    indices = not between.any() and np.count_nonzero(bright) == 1 and np.count_nonzero(dark) > 1
    both = dark.any() and bright.any() and not (indices and values.is_grey)
    is_greyish = np.ptp(values.colours, axis=1).max(initial=0) <= NEAR
    if not is_greyish or not _is_edge(values, between, dark, bright) or not (both or values.is_jpeg):
        greys = f"{len(level)} grey values" if values.is_grey else f"{len(level)} colours"
        raise ValueError(f"{path}: {greys}; a binary mask has two values, 0 and another")
    if not bright.any() and _has_area(level > 0, values):
        raise ValueError(f"{path}: a JPEG that is almost black; 0 and 1 are not clear in one, save it as png")
    return level < 128


def _is_edge(values: Values, between: np.ndarray, one: np.ndarray, other: np.ndarray) -> bool:
    """Whether every pixel with a value in `between` has pixels of both other kinds around it; each is [n] bool."""
    indices = values.indices
    side = JPEG_EDGE if values.is_jpeg else EDGE
    return bool((between[indices] <= _near(one[indices], side) & _near(other[indices], side)).all())


def _has_area(chosen: np.ndarray, values: Values) -> bool:
    """Whether pixels with the values `chosen`, [n] bool, fill a square of `SPECK`."""
    pixels = Image.fromarray(chosen[values.indices].astype(np.uint8))
    return bool(np.asarray(pixels.filter(ImageFilter.MinFilter(SPECK))).any())


def _near(pixels: np.ndarray, side: int) -> np.ndarray:
    """[H, W] bool: whether such a pixel is in the square around each."""
    return np.asarray(Image.fromarray(pixels.astype(np.uint8)).filter(ImageFilter.MaxFilter(side))) > 0
