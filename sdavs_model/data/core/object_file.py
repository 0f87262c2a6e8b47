"""The visible objects of a clip in one picture: all of them, those that sound and those that are silent.

An 8-bit grey PNG of T * H rows and W columns, the T frames one below the other from first to last. A pixel holds 0 for
the background and k for the k-th visible object; where objects overlap, the one in front. Benchmarks have no such
file: it is what a model that marks everything it sees would have to predict.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from sdavs_model.data.core.images import opened


def write_objects(path: Path, objects: np.ndarray) -> None:
    """Write the objects of one clip, [T, H, W] uint8."""
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
