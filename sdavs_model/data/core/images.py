"""Frames and masks of a data set, read from their files and compared with each other."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from sdavs_model.data.core.orientation import exif_orientation, upright


def read_image(path: Path, mode: str | None = None) -> np.ndarray:
    """One picture, upright as its EXIF says; as stored (palette files keep their indices) or in a PIL mode like "RGB".

    Raises:
        ValueError: missing or corrupt; names the file.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image if mode is None else image.convert(mode))
            return upright(pixels, exif_orientation(image))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as a picture ({error})") from error


def read_frames(paths: Sequence[Path]) -> np.ndarray:
    """[T, H, W, 3] uint8, RGB.

    Raises:
        ValueError: a corrupt picture, or one of another size than the first; names the file.
    """
    # VPO shows one picture for several seconds; it is read once.
    pictures = {path: read_image(path, "RGB") for path in dict.fromkeys(paths)}
    frames = [pictures[path] for path in paths]
    for frame, path in zip(frames, paths, strict=True):
        if frame.shape != frames[0].shape:
            raise ValueError(f"{path}: {size_text(frame)}, but {paths[0].name} is {size_text(frames[0])}")
    return np.stack(frames)


def foreground(mask: np.ndarray) -> np.ndarray:
    """[H, W] uint8, 1 where a stored mask is not black: grey of 255 or 1, palette, RGB and RGBA are all in use."""
    grey = mask if mask.ndim == 2 else mask[..., :3].max(axis=-1)
    return np.asarray(grey > 0, np.uint8)


def size_text(image: np.ndarray) -> str:
    """Width x height, as a person writes it."""
    return f"{image.shape[1]}x{image.shape[0]}"
