"""Rows of images: a frame of a clip with its ground truth, heat maps over it, and the model's prediction."""

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
"""Side of a panel in inches."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One image: a frame with the sounding objects outlined, and an optional overlay."""

    pixels: np.ndarray
    """[S, S, 3] uint8."""
    ground_truth: np.ndarray
    """[S, S] bool."""
    title: str
    over: np.ndarray | None = None
    """[S, S] in [0, 1], drawn as heat."""

    @classmethod
    def scene(cls, item: dict[str, Any], second: int, preprocess: PreprocessConfig) -> "Panel":
        """The frame of one second of an item."""
        return cls(
            pixels=as_pixels(item["frames"][second], preprocess),
            ground_truth=sounding_masks(item)[second].numpy(),
            title="frame, ground\ntruth outlined",
        )

    def heat(self, values: torch.Tensor, title: str) -> "Panel":
        """The same frame under a map [h, w], scaled from its minimum to its maximum."""
        low, high = values.min(), values.max()
        # A constant map has no structure to scale; it is drawn as its minimum.
        stretched = (values - low) / (high - low) if high > low else torch.zeros_like(values)
        size = self.ground_truth.shape
        smooth = F.interpolate(
            stretched[None, None].float().cpu(), size, mode="bilinear", align_corners=False
        )
        return replace(self, over=smooth[0, 0].numpy(), title=title)

    def prediction(self, marked: torch.Tensor, title: str = "prediction") -> "Panel":
        """The same frame with the marked pixels [S, S] in red and the rest darkened."""
        found = marked.cpu().numpy()[..., None]
        pixels = np.where(found, 0.45 * self.pixels + 0.55 * OVERLAY, 0.6 * self.pixels)
        return replace(self, pixels=pixels.astype(np.uint8), title=title)


def picture_rows(rows: list[list[Panel]]) -> Figure:
    """One clip per row; titles above the first."""
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
    if panel.ground_truth.any() and not panel.ground_truth.all():
        axes.contour(panel.ground_truth, levels=[0.5], colors="white", linewidths=0.9)
    axes.set_axis_off()
