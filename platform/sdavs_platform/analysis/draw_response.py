"""Plots of figure 8: responses as surfaces over the frame, and the distributions of both selectors' weights."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sdavs_model.analysis.snrp_gates import NUM_BINS, LevelDistribution

Surface = tuple[np.ndarray, torch.Tensor, torch.Tensor, torch.Tensor]
"""Frame [S, S, 3] uint8, mask [S, S] bool, response before and after SNRP [h, w]."""


def surfaces(clips: list[Surface]) -> Figure:
    """One clip per row: the frame with the ground truth outlined, then the response before and after SNRP.

    Both surfaces of a row are divided by the largest response before SNRP, so suppression shows as lower height.
    """
    figure = Figure(figsize=(9, 2.9 * len(clips)), layout="constrained")
    FigureCanvasAgg(figure)
    for row, (pixels, mask, before, after) in enumerate(clips):
        frame = figure.add_subplot(len(clips), 3, 3 * row + 1)
        frame.imshow(pixels)
        frame.contour(mask.numpy(), levels=[0.5], colors="white", linewidths=1)
        frame.set_axis_off()
        for column, (title, values) in enumerate((("before SNRP", before), ("after SNRP", after)), 2):
            axes: Any = figure.add_subplot(len(clips), 3, 3 * row + column, projection="3d")
            heights = (values / before.max()).numpy()
            ys, xs = np.mgrid[: heights.shape[0], : heights.shape[1]]
            axes.plot_surface(
                xs, ys, heights, cmap="turbo", vmin=0, vmax=1, linewidth=0, rstride=1, cstride=1
            )
            # Seen from the frame's lower edge: left stays left, the frame's top is at the back.
            axes.view_init(elev=38, azim=-75)
            axes.invert_yaxis()
            axes.set_zlim(0, float(torch.maximum(before, after).max() / before.max()))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.tick_params(labelsize=7)
            if row == 0:
                axes.set_title(title, fontsize=10)
    return figure


def distributions(levels: Mapping[str, LevelDistribution]) -> Figure:
    """Top: spatial weights on sounding objects and elsewhere. Bottom: each channel's weight, sorted by its mean.

    The band holds the middle 80 % of seconds and shows how much the weight depends on the sound. A level without the
    selector has an empty panel that says so.
    """
    figure = Figure(figsize=(3.2 * len(levels), 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, len(levels), squeeze=False)
    for (name, level), space, channels in zip(levels.items(), above, below, strict=True):
        space.set_title(f"level {name}", fontsize=10)
        if level.has_spatial:
            edges = np.linspace(0, 1, NUM_BINS + 1)
            inside, outside = level.spatial_histogram()
            space.stairs(outside.numpy(), edges, fill=True, alpha=0.5, label="elsewhere")
            space.stairs(inside.numpy(), edges, fill=True, alpha=0.5, label="on sounding objects")
            space.set_xlabel("spatial weight")
        else:
            space.text(0.5, 0.5, "no spatial selector", ha="center", transform=space.transAxes)
        if level.has_channels:
            gates = level.channel_gates()
            gates = gates[:, gates.mean(0).argsort()]
            low, high = gates.quantile(torch.tensor([0.1, 0.9]), dim=0)
            order = np.arange(gates.shape[1])
            channels.fill_between(order, low.numpy(), high.numpy(), alpha=0.35)
            channels.plot(order, gates.mean(0).numpy())
            channels.axhline(1, color="grey", linewidth=1, linestyle=":")
            channels.set_ylim(0, 2)
            channels.set_xlabel("channels, sorted")
        else:
            channels.text(0.5, 0.5, "no channel selector", ha="center", transform=channels.transAxes)
    above[0].set_ylabel("fraction of positions")
    below[0].set_ylabel("channel weight")
    if any(level.has_spatial for level in levels.values()):
        above[0].legend(fontsize=8)
    return figure
