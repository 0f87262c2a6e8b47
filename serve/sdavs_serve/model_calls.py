"""Calls to the model deployments: what they return, and which failures are the replica's and not the model's.

Light to import: the ingress needs neither torch nor MLflow.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError

from sdavs_model.data.core.clip import Clip

CALL_LOST = (RayActorError, DeploymentUnavailableError)
"""The call was lost with its replica; this does not count against the model."""


class ReplicaBroken(Exception):
    """The device of this replica is broken; another replica can process the request."""


async def within(seconds: float, call: Any) -> Any:
    """The result of a call to a deployment, which is cancelled after so many seconds.

    Raises:
        TimeoutError: it takes longer.
    """
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError:
        call.cancel()
        raise


ROWS_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A class that a model heard in one frame's second of sound; see `sdavs_model.architectures.base.Heard`."""

    name: str
    seen: float
    distance: float


@dataclass(frozen=True, kw_only=True)
class Region:
    """Where one class is in one frame."""

    counts: bytes
    """COCO's compressed run lengths: kilobytes, where the mask itself has as many bytes as pixels."""
    num_pixels: int
    score: float
    """Mean probability inside."""


Regions = dict[int, Region]
"""By class, for those present in a frame; 0, the background, is excluded, and binary models have only 1."""


def regions_of(mask: np.ndarray, confidence: np.ndarray) -> Regions:
    """The regions of a mask [H, W] uint8, scored by the confidence [H, W] of each pixel."""
    regions = {}
    for value in range(1, int(mask.max(initial=0)) + 1):
        inside = mask == value
        if num_pixels := int(np.count_nonzero(inside)):
            counts = coco.encode(_columns_first(inside.view(np.uint8)))["counts"]
            score = float(confidence[inside].mean(dtype=np.float64))
            regions[value] = Region(counts=counts, num_pixels=num_pixels, score=score)
    return regions


def _columns_first(mask: np.ndarray) -> np.ndarray:
    """As `np.asfortranarray`, some rows at a time, which stay in the processor's cache: a third of the time at 4K."""
    columns = np.empty(mask.shape[::-1], mask.dtype)
    for row in range(0, len(mask), ROWS_AT_ONCE):
        columns[:, row : row + ROWS_AT_ONCE] = mask[row : row + ROWS_AT_ONCE].T
    return columns.T


def mask_of(regions: Regions, size: tuple[int, int]) -> np.ndarray:
    """[H, W] uint8, class of each pixel, back from its regions."""
    mask = np.zeros(size, np.uint8)
    for value, region in regions.items():
        mask[coco.decode({"size": list(size), "counts": region.counts}) > 0] = value
    return mask


@dataclass(frozen=True, kw_only=True)
class Masks:
    """A model's prediction for one clip."""

    version: int
    """Version of the model that made it."""
    size: tuple[int, int]
    """Height and width of the clip's frames as displayed, and so of the masks."""
    frames: list[Regions]
    sounds: list[list[Sound]] | None = None
    """For each frame the classes that were heard, nearest first; None from models that do not report them."""

    @property
    def masks(self) -> np.ndarray:
        """[T, H, W] uint8: 0 is background, else the class."""
        return np.stack([mask_of(regions, self.size) for regions in self.frames])


@dataclass(frozen=True, kw_only=True)
class GoldenReport:
    """How a loaded model reproduces the golden clips that came with it."""

    difference: float
    """Largest difference of its logits from the stored ones, relative to the largest stored one."""
    clips: list[Clip]
    """The golden clips, with their sound: models of other architectures may preprocess it differently."""
