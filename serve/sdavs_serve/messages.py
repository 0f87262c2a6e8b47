"""What the deployments tell each other. Light to import: the ingress needs neither torch nor MLflow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict


class Target(BaseModel):
    """The version to serve, as it stands in the model deployment's `user_config`.

    A number and not an alias: the same target means the same weights on every replica, and a new one is a
    change that Serve sees and hands to `reconfigure`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: int
    alias: str | None = None


@dataclass(frozen=True, kw_only=True)
class Masks:
    """What the model says about one clip."""

    version: str
    """Version of the model that said it."""
    masks: np.ndarray
    """[T, H, W] uint8, 0 or 1, in the size of the clip's frames."""
    scores: list[float]
    """Mean probability inside each mask; 0 where it is empty."""
