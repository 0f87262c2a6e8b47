"""Augmentation of frames and masks: each function changes all frames of a clip alike."""

import math

import numpy as np
from PIL import Image, ImageFilter

GRAY = np.array([0.299, 0.587, 0.114], np.float32)


def move(
    frames: np.ndarray,
    masks: np.ndarray,
    size: int,
    *,
    flip: bool,
    zoom: float,
    shift: float,
    rotation: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Squash [T, H, W, ...] to [T, size, size, ...], then turn, zoom and shift it by one affine map."""
    scale = rng.uniform(1 / (1 + zoom / 3), 1 + zoom)
    angle = math.radians(rng.uniform(-rotation, rotation))
    mirror = -1.0 if flip else 1.0
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    # A crop stays in the picture wherever it lies.
    room = max(shift, 0.5 * (1 - 1 / scale)) * size
    shift_x, shift_y = rng.uniform(-room, room, 2)
    middle = size / 2
    matrix = (
        mirror * cos,
        -sin,
        middle + shift_x - mirror * cos * middle + sin * middle,
        mirror * sin,
        cos,
        middle + shift_y - mirror * sin * middle - cos * middle,
    )
    fill = tuple(int(value) for value in rng.integers(0, 256, 3))

    def warp(image: np.ndarray, method: Image.Resampling, fill_colour: tuple[int, ...] | int) -> np.ndarray:
        picture = Image.fromarray(image)
        if picture.size != (size, size):
            picture = picture.resize((size, size), method)
        moved = picture.transform(
            (size, size), Image.Transform.AFFINE, matrix, resample=method, fillcolor=fill_colour
        )
        return np.asarray(moved)

    return (
        np.stack([warp(frame, Image.Resampling.BILINEAR, fill) for frame in frames]),
        np.stack([warp(mask, Image.Resampling.NEAREST, 0) for mask in masks]),
    )


def blur(frames: np.ndarray, radius: float) -> np.ndarray:
    """A box blur of `radius` pixels."""
    return np.stack(
        [np.asarray(Image.fromarray(frame).filter(ImageFilter.BoxBlur(radius))) for frame in frames]
    )


def recolour(
    frames: np.ndarray,
    *,
    brightness: float,
    saturation: float,
    hue: float,
    gray: bool,
    noise: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Brightness, contrast, tint, saturation and hue as one 3x3 matrix and an offset, then pixel noise."""
    light, contrast = 1 + rng.uniform(-brightness, brightness, 2)
    tint = 1 + rng.uniform(-brightness / 3, brightness / 3, 3)
    vividness = 0.0 if gray else 1 + rng.uniform(-saturation, saturation)
    to_gray = np.tile(GRAY, (3, 1))
    matrix = (1 - vividness) * to_gray + vividness * _hue_turn(rng.uniform(-hue, hue))
    matrix = (light * contrast * tint)[:, None] * matrix
    offset = 127.5 * (1 - contrast)
    pixels = frames.reshape(-1, 3).astype(np.float32) @ matrix.T.astype(np.float32)
    pixels += np.float32(offset)
    deviation = 255 * rng.uniform(0, noise)
    pixels += np.float32(deviation) * rng.standard_normal(pixels.shape, dtype=np.float32)
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8).reshape(frames.shape)


def erase(frames: np.ndarray, masks: np.ndarray, rng: np.random.Generator) -> None:
    """Hide a rectangle (a tenth to two fifths of the side) of every frame, in place; the masks lose it too.

    The rectangle is one colour, or a piece of the same frame from elsewhere together with its mask.
    """
    size = frames.shape[1]
    height, width = (int(value) for value in rng.integers(size // 10, max(2 * size // 5, size // 10 + 1), 2))
    top, left = int(rng.integers(size - height)), int(rng.integers(size - width))
    area = (slice(None), slice(top, top + height), slice(left, left + width))
    if rng.random() < 0.5:
        frames[area] = rng.integers(0, 256, 3, dtype=np.uint8)
        masks[area] = 0
    else:
        top, left = int(rng.integers(size - height)), int(rng.integers(size - width))
        other = (slice(None), slice(top, top + height), slice(left, left + width))
        frames[area], masks[area] = frames[other].copy(), masks[other].copy()


def _hue_turn(turn: float) -> np.ndarray:
    """A rotation of RGB about the grey axis by `turn` full circles, [3, 3]."""
    cos, sin = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    axis = 1 / math.sqrt(3)
    cross = axis * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    return (cos * np.eye(3) + sin * cross + (1 - cos) / 3 * np.ones((3, 3))).astype(np.float32)
