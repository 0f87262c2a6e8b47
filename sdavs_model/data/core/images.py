"""The frames of a data set and the visible objects of its clips, read from picture files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from sdavs_model.data.core.orientation import exif_orientation, upright


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An open picture. Raises ValueError naming the file if it is missing or, when it is decoded, corrupt."""
    if path.is_file() and not path.stat().st_size:
        raise ValueError(f"{path}: is empty")
    try:
        with Image.open(path) as image:
            yield image
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as a picture ({error})") from error


def read_picture(path: Path) -> np.ndarray:
    """[H, W, 3] uint8 RGB, turned upright according to its EXIF.

    Raises:
        ValueError: missing or corrupt; names the file.
    """
    with opened(path) as image:
        return displayed(image)


def displayed(image: Image.Image) -> np.ndarray:
    """[H, W, 3] uint8 RGB of an open picture as a viewer shows it, turned upright according to its EXIF."""
    shown = image
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):
        # Pillow's own conversion makes white of every grey of 16 bit above 255.
        shown = Image.fromarray(((np.asarray(image).astype(np.int64) + 128) // 257).astype(np.uint8))
    pixels = np.asarray(shown.convert("RGB"))
    # Read last: PNG may hold its EXIF behind the pixels.
    return upright(pixels, exif_orientation(image))


def read_frames(paths: Sequence[Path]) -> np.ndarray:
    """[T, H, W, 3] uint8, RGB.

    Raises:
        ValueError: a corrupt picture, or one of another size than the first; names the file.
    """
    # VPO shows one picture for several seconds; it is read once.
    pictures = {path: read_picture(path) for path in dict.fromkeys(paths)}
    frames = [pictures[path] for path in paths]
    for frame, path in zip(frames, paths, strict=True):
        if frame.shape != frames[0].shape:
            raise ValueError(f"{path}: {size_text(frame)}, but {paths[0].name} is {size_text(frames[0])}")
    return np.stack(frames)


def write_objects(path: Path, objects: np.ndarray) -> None:
    """Write the visible objects of one clip, [T, H, W] uint8, as one picture.

    An 8-bit grey PNG of T * H rows and W columns, the T frames one below the other from first to last. A pixel holds 0
    for the background and k for the k-th visible object, sounding or silent; where objects overlap, the one in front.
    Benchmarks have no such file: it is what a model that marks everything it sees would have to predict.
    """
    Image.fromarray(objects.reshape(-1, objects.shape[2])).save(path)


def read_objects(path: Path, num_frames: int) -> np.ndarray:
    """The objects of one clip, [T, H, W] uint8.

    Raises:
        ValueError: no readable picture, not 8-bit grey, or its rows are not those of `num_frames` frames; names the
            file.
    """
    with opened(path) as image:
        if image.mode != "L" or image.height % num_frames:
            raise ValueError(f"{image.mode}, {image.height} rows, are not {num_frames} frames in 8-bit grey")
        return np.asarray(image).reshape(num_frames, -1, image.width)


def squash(image: np.ndarray, side: int, method: Image.Resampling) -> np.ndarray:
    """[H, W] or [H, W, 3] uint8 -> the same with both sides `side`; one of that size already stays as it is."""
    if image.shape[:2] == (side, side):
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), method))


def squash_picture(picture: np.ndarray, side: int) -> np.ndarray:
    """[H, W, 3] uint8 -> [S, S, 3] uint8 as the model sees it, in training and in serving; bilinear."""
    return squash(picture, side, Image.Resampling.BILINEAR)


def size_text(image: np.ndarray) -> str:
    """Width x height, as a person writes it."""
    return f"{image.shape[1]}x{image.shape[0]}"
