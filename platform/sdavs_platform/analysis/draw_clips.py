"""Rows of pictures: a clip's frame with its truth, heat maps over it, and what the model marks."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.nn import functional as F

from sdavs_model.analysis.clip_scores import sounding_masks
from sdavs_model.config import PreprocessConfig
from sdavs_platform.tracking.plots import OVERLAY, as_pixels

SIDE = 1.55
"""Inches of one panel."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture: a frame in which the sounding objects are outlined, and what is laid over it."""

    pixels: np.ndarray
    """[S, S, 3] uint8."""
    truth: np.ndarray
    """[S, S] bool."""
    title: str
    over: np.ndarray | None = None
    """[S, S] in [0, 1], drawn as heat."""

    @classmethod
    def scene(cls, item: dict[str, Any], second: int, preprocess: PreprocessConfig) -> "Panel":
        """The frame of one second of an item."""
        return cls(
            pixels=as_pixels(item["frames"][second], preprocess),
            truth=sounding_masks(item)[second].numpy(),
            title="frame, truth\noutlined",
        )

    def heat(self, values: torch.Tensor, title: str) -> "Panel":
        """The same frame under a map [h, w], stretched to its own least and greatest value."""
        low, high = values.min(), values.max()
        # An even map has no structure to stretch; it is drawn as its least value.
        stretched = (values - low) / (high - low) if high > low else torch.zeros_like(values)
        size = self.truth.shape
        smooth = F.interpolate(
            stretched[None, None].float().cpu(), size, mode="bilinear", align_corners=False
        )
        return replace(self, over=smooth[0, 0].numpy(), title=title)

    def answer(self, marked: torch.Tensor, title: str = "answer") -> "Panel":
        """The same frame with the marked pixels [S, S] in red and the rest darkened."""
        found = marked.cpu().numpy()[..., None]
        pixels = np.where(found, 0.45 * self.pixels + 0.55 * OVERLAY, 0.6 * self.pixels)
        return replace(self, pixels=pixels.astype(np.uint8), title=title)


def picture_rows(rows: list[list[Panel]]) -> Figure:
    """One clip a row; titles above the first."""
    num_columns = len(rows[0])
    figure = Figure(figsize=(num_columns * SIDE, len(rows) * SIDE + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), num_columns, squeeze=False)
    for number, (panels, line) in enumerate(zip(rows, grid, strict=True)):
        for panel, axes in zip(panels, line, strict=True):
            _draw(panel, axes)
            if number == 0:
                axes.set_title(panel.title, fontsize=8)
    return figure


def _draw(panel: Panel, axes: Axes) -> None:
    axes.imshow(panel.pixels)
    if panel.over is not None:
        axes.imshow(panel.over, cmap="turbo", alpha=0.6, vmin=0, vmax=1)
    if panel.truth.any() and not panel.truth.all():
        axes.contour(panel.truth, levels=[0.5], colors="white", linewidths=0.9)
    axes.set_axis_off()
