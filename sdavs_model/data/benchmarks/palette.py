"""AVSBench-semantic's class names and the colours of its masks."""

import functools
import json
import warnings
from pathlib import Path

import numpy as np


def read_classes(path: Path) -> tuple[str, ...]:
    """The class names of a `label2idx.json`, in the order of their indices, background first.

    The published file counts from 1, copies of it from 0; both are read.

    Raises:
        ValueError: missing, no JSON of {name: index}, indices with gaps, or another first class.
    """
    try:
        indices = json.loads(path.read_text())
        names = sorted(indices, key=lambda name: int(indices[name]))
        numbers = sorted(int(index) for index in indices.values())
    except FileNotFoundError:
        raise ValueError(f"{path}: missing, the names of the classes") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: not a JSON of class names and indices ({error})") from error
    if (
        not numbers
        or numbers != list(range(numbers[0], numbers[0] + len(numbers)))
        or numbers[0] not in (0, 1)
    ):
        raise ValueError(f"{path}: the indices must run from 0 or 1 on without gaps")
    if names[0] != "background":
        raise ValueError(f"{path}: the first class is {names[0]!r}; it must be 'background'")
    return tuple(names)


@functools.cache
def palette(num_classes: int) -> np.ndarray:
    """[K, 3] uint8: the colour of each class, PASCAL VOC's colour map (index bits interleaved over the channels)."""
    colours = np.zeros((num_classes, 3), np.uint8)
    for index in range(num_classes):
        for bit in range(8):
            for channel in range(3):
                colours[index, channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return colours


def colours_to_classes(picture: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """A colour mask [H, W, 3] uint8 -> its class indices [H, W] uint8, and [H, W] bool where a colour is unknown.

    Unknown colours become background, as in the official loader.
    """
    known = _packed(palette(num_classes))
    order = np.argsort(known)
    packed = _packed(picture)
    place = np.searchsorted(known[order], packed).clip(max=num_classes - 1)
    unknown = known[order][place] != packed
    return np.where(unknown, 0, order[place]).astype(np.uint8), unknown


def read_colours(path: Path, picture: np.ndarray, num_classes: int) -> np.ndarray:
    """`colours_to_classes` of a stored mask; warns, naming the file, if a colour is unknown.

    Raises:
        ValueError: the picture has no colours.
    """
    if picture.ndim != 3 or picture.shape[2] < 3:
        raise ValueError(f"{path}: a mask in colours (RGB) was expected")
    classes, unknown = colours_to_classes(picture[..., :3], num_classes)
    if unknown.any():
        colour = tuple(int(value) for value in picture[unknown][0][:3])
        warnings.warn(
            f"{path}: {int(unknown.sum())} pixels of no class's colour, such as {colour}, are taken for background",
            stacklevel=2,
        )
    return classes


def _packed(colours: np.ndarray) -> np.ndarray:
    """[..., 3] uint8 -> [...] int32, one number a colour."""
    return colours.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
