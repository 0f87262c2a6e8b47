"""Calls to the model deployments: what they return, and which failures are the replica's and not the model's.

Light to import: the ingress needs neither torch nor MLflow.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError

from sdavs_model.data.core.clip import Clip

CALL_LOST = (RayActorError, DeploymentUnavailableError)
"""The call was lost with the replica that had it; this says nothing about the model."""


class ReplicaBroken(Exception):
    """This replica computes no more, whatever it is sent; another one can."""


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


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A class that a model heard in one frame's second of sound; see `sdavs_model.architectures.base.Heard`."""

    name: str
    seen: float
    distance: float


@dataclass(frozen=True, kw_only=True)
class Masks:
    """A model's prediction for one clip."""

    version: int
    """Version of the model that made it."""
    masks: np.ndarray
    """[T, H, W] uint8 in the size of the clip's frames: 0 is background, else the class; binary models know 1."""
    scores: list[dict[int, float]]
    """For each frame and each class in it, the mean probability inside its mask."""
    sounds: list[list[Sound]] | None = None
    """For each frame the classes that were heard, nearest first; None from models that do not say."""


@dataclass(frozen=True, kw_only=True)
class GoldenReport:
    """How a loaded model reproduces the golden clips that came with it."""

    difference: float
    """Largest difference of its logits from the stored ones, relative to the largest stored one."""
    clips: list[Clip]
    """The golden clips, with their sound: models of other architectures may hear it in another way."""
