"""AVSBench-semantic's class names and the colours of its masks."""

import functools
import json
import warnings
from pathlib import Path

import numpy as np

from sdavs_model.data.core.mask_files import read_values, require_one_number, require_opaque
from sdavs_model.files import read_text


def read_classes(path: Path) -> tuple[str, ...]:
    """The class names of a `label2idx.json`, in the order of their indices, background first.

    The published file counts from 1, copies of it from 0; both are read.

    Raises:
        ValueError: missing, no JSON of {name: index}, indices with gaps, or another first class.
    """
    try:
        indices = json.loads(read_text(path))
        names = sorted(indices, key=lambda name: int(indices[name]))
        numbers = sorted(int(index) for index in indices.values())
    except FileNotFoundError:
        raise ValueError(f"{path}: missing; it names the classes") from None
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


def read_colours(path: Path, num_classes: int) -> np.ndarray:
    """[H, W] uint8 class indices of a mask in colours; warns, naming the file, if a colour is unknown.

    Raises:
        ValueError: no readable picture, partly transparent, or grey; names the file.
    """
    values = read_values(path)
    require_opaque(path, values)
    if values.is_grey and values.numbers is not None and not values.has_palette:
        raise ValueError(f"{path}: a mask in colours (RGB) was expected")
    classes, unknown = colours_to_classes(values.colours[None].astype(np.uint8), num_classes)
    if unknown.any():
        colour = tuple(int(value) for value in values.colours[unknown[0]][0])
        num_pixels = int(unknown[0][values.indices].sum())
        warnings.warn(
            f"{path}: {num_pixels} pixels of no class's colour, such as {colour}, are taken for background",
            stacklevel=2,
        )
    return classes[0][values.indices]


def read_class_mask(path: Path, num_classes: int) -> np.ndarray:
    """[H, W] uint8 class indices of a mask that holds them as greys, in a palette or in the classes' colours.

    Raises:
        ValueError: no readable picture, an index beyond the classes, or it is not clear what is meant; names the file.
    """
    values = read_values(path)
    require_opaque(path, values)
    if values.is_jpeg:
        require_one_number(path, values)
    if (
        values.has_palette
        and values.numbers is not None
        and len(values.numbers) > 1
        and not values.colours.any()
    ):
        # A palette that was never filled in.
        return _below(path, values.numbers, num_classes)[values.indices]
    if values.numbers is not None and not values.has_palette:
        if values.numbers.max(initial=0) >= num_classes and values.step > 1:
            return _below(path, values.numbers // values.step, num_classes)[values.indices]
        require_one_number(path, values)
        return _below(path, values.numbers, num_classes)[values.indices]
    # A palette's order is up to the program that saved it, so its colours decide, whether they are greys or classes'.
    meanings: list[np.ndarray] = []
    if values.is_grey and values.colours.max(initial=0) < num_classes:
        meanings.append(values.colours[:, 0].astype(np.int64))
    classes, unknown = colours_to_classes(values.colours[None].astype(np.uint8), num_classes)
    if not unknown.any():
        meanings.append(classes[0].astype(np.int64))
    for meaning in meanings:
        if all((meaning == other).all() for other in meanings) or (
            values.numbers is not None and (meaning == values.numbers).all()
        ):
            return meaning.astype(np.uint8)[values.indices]
    if meanings:
        raise ValueError(
            f"{path}: its greys are both classes' colours and class indices; save it without a palette"
        )
    if values.numbers is None:
        raise ValueError(
            f"{path}: has colours that belong to no class; class indices below {num_classes} were expected"
        )
    return _below(path, values.numbers, num_classes)[values.indices]


def _below(path: Path, numbers: np.ndarray, num_classes: int) -> np.ndarray:
    if numbers.max(initial=0) >= num_classes:
        raise ValueError(
            f"{path}: values up to {numbers.max(initial=0)}; allowed: class indices below {num_classes}"
        )
    return numbers.astype(np.uint8)


def _packed(colours: np.ndarray) -> np.ndarray:
    """[..., 3] uint8 -> [...] int32, one number a colour."""
    return colours.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
