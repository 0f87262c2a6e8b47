"""The frames of a composed clip: cut-outs that move over a photograph, drawn back to front."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from sdavs_model.data.realav.asset_library import Photo, Pool
from sdavs_model.data.realav.scenes import Scene
from sdavs_model.data.realav.stable_random import StableRandom

LAYOUT_ATTEMPTS = 16
OPAQUE = 128
"""Alpha from which on a pixel belongs to the object."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """Where an object is in one frame, in pixels."""

    left: int
    top: int
    width: int
    height: int

    def covered_by(self, other: "Box") -> int:
        """Percent of this box that the other one covers."""
        width = min(self.left + self.width, other.left + other.width) - max(self.left, other.left)
        height = min(self.top + self.height, other.top + other.height) - max(self.top, other.top)
        return 100 * max(0, width) * max(0, height) // (self.width * self.height)


def render(
    rng: StableRandom, pool: Pool, scene: Scene, size: int, num_frames: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """[T, size, size, 3] uint8 frames, [T, size, size] uint8 owners (0 background, k the k-th seen object), and
    the sha256 of every picture used."""
    photos, used = [], []
    for source in scene.sources:
        if source.seen:
            photo, sha256 = _draw_photo(rng, pool.photos[source.category])
            photos.append(photo)
            used.append(sha256)
    layout = _draw_layout(rng, [photo.size for photo in photos], size, num_frames)
    scenery_photo = rng.pick(pool.backgrounds)
    background = scenery_photo.image
    used.append(scenery_photo.sha256)
    views = _draw_views(rng, background.size, num_frames)
    mirrored = rng.percent(50)
    # A soft lens over everything in a third of the clips, so that sharpness does not mark the cut-outs.
    lens = ImageFilter.BoxBlur(rng.between(30, 80) * size / 12800) if rng.percent(33) else None
    frames = np.empty((num_frames, size, size, 3), np.uint8)
    owners = np.zeros((num_frames, size, size), np.uint8)
    for index in range(num_frames):
        scenery = background.resize((size, size), Image.Resampling.BILINEAR, box=views[index])
        if mirrored:
            scenery = scenery.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for number, (photo, boxes) in enumerate(zip(photos, layout, strict=True), 1):
            box = boxes[index]
            sprite = photo.resize((box.width, box.height), Image.Resampling.BILINEAR)
            alpha = sprite.getchannel("A")
            # Feathered inwards: outside its alpha a cut-out has no colour to show.
            soft = ImageChops.darker(alpha, alpha.filter(ImageFilter.BoxBlur(size / 160)))
            scenery.paste(sprite.convert("RGB"), (box.left, box.top), soft)
            shape = Image.new("L", (size, size))
            shape.paste(alpha, (box.left, box.top))
            owners[index][np.asarray(shape) >= OPAQUE] = number
        frames[index] = np.asarray(scenery if lens is None else scenery.filter(lens))
    return frames, owners, used


def _draw_photo(rng: StableRandom, photos: list[Photo]) -> tuple[Image.Image, str]:
    """One of the cut-outs, mirrored in half of the cases, a little lighter or darker, and its sha256."""
    chosen = rng.pick(photos)
    photo = chosen.image
    if rng.percent(50):
        photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    light = rng.between(75, 125)
    *colours, alpha = photo.split()
    lit = [colour.point([min(255, value * light // 100) for value in range(256)]) for colour in colours]
    return Image.merge("RGBA", (*lit, alpha)), chosen.sha256


def _draw_layout(
    rng: StableRandom, shapes: list[tuple[int, int]], size: int, num_frames: int
) -> list[list[Box]]:
    """Paths of all objects, back to front: of several tries the one that hides the least of anything."""
    best, least = None, 101
    for _ in range(LAYOUT_ATTEMPTS):
        layout = [_draw_path(rng, shape, len(shapes), size, num_frames) for shape in shapes]
        hidden = max(
            (
                back[frame].covered_by(front[frame])
                for frame in range(num_frames)
                for number, back in enumerate(layout)
                for front in layout[number + 1 :]
            ),
            default=0,
        )
        if hidden < least:
            best, least = layout, hidden
        if hidden <= 30:
            break
    assert best is not None
    return best


def _draw_path(
    rng: StableRandom, shape: tuple[int, int], num_objects: int, size: int, num_frames: int
) -> list[Box]:
    """One object's box in every frame, straight from a first place and size to a last."""
    longest = rng.between(44, 88 if num_objects < 3 else 70) * size // 100
    last_longest = min(longest * rng.between(80, 125) // 100, size * 9 // 10)
    # Centres in thousandths of the room in which most of the object stays in the picture.
    points = [[rng.below(1001), rng.below(1001)]]
    points.append([min(1000, max(0, value + rng.between(-350, 350))) for value in points[0]])
    boxes = []
    steps = max(1, num_frames - 1)
    for frame in range(num_frames):
        side = (longest * (steps - frame) + last_longest * frame) // steps
        width = max(4, side * shape[0] // max(shape))
        height = max(4, side * shape[1] // max(shape))
        x, y = ((a * (steps - frame) + b * frame) // steps for a, b in zip(*points, strict=True))
        margin_x, margin_y = width * 3 // 10, height * 3 // 10
        centre_x = margin_x + x * (size - 2 * margin_x) // 1000
        centre_y = margin_y + y * (size - 2 * margin_y) // 1000
        boxes.append(Box(left=centre_x - width // 2, top=centre_y - height // 2, width=width, height=height))
    return boxes


def _draw_views(
    rng: StableRandom, shape: tuple[int, int], num_frames: int
) -> list[tuple[int, int, int, int]]:
    """The square part of the background that each frame shows: a slow pan."""
    side = min(shape) * rng.between(60, 100) // 100
    ends = [(rng.between(0, shape[0] - side), rng.between(0, shape[1] - side)) for _ in range(2)]
    steps = max(1, num_frames - 1)
    views = []
    for frame in range(num_frames):
        # A third of the way only: the camera drifts.
        left, top = ((a * (3 * steps - frame) + b * frame) // (3 * steps) for a, b in zip(*ends, strict=True))
        views.append((left, top, left + side, top + side))
    return views
