"""The plots of a run: its learning curve, and the predictions for a few fixed clips."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw

from sdavs_model.config import PreprocessConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sdavs_platform.tracking.runs import TrainingRun

OVERLAY = np.array([255, 64, 64])
GAP = 4
HEADER = 14


def learning_curve(run: "TrainingRun") -> "Figure":
    """Training loss (top), validation J and F (bottom) over optimizer steps, from the metrics of the run."""
    # Half a second to import, and only rank 0 plots.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, sharex=True)
    for key, label in (
        ("train/loss", "sum"),
        ("train/ce", "CE"),
        ("train/iou", "IoU"),
        ("train/dice", "Dice"),
    ):
        above.plot(*_columns(run.history(key)), label=label, linewidth=2 if key == "train/loss" else 1)
    for key, label in (("val/miou", "J"), ("val/fscore", "F")):
        below.plot(*_columns(run.history(key)), "o-", markersize=3, label=label)
    above.set_ylabel("training loss")
    below.set_ylabel("validation score")
    below.set_xlabel("optimizer step")
    below.set_ylim(0, 1)
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend(loc="best")
    return figure


def prediction_panel(
    frames: torch.Tensor, masks: torch.Tensor, logits: torch.Tensor, preprocess: PreprocessConfig
) -> Image.Image:
    """An image with rows of frame, ground truth, prediction and overlay for each clip, and time as columns.

    Args:
        frames: [B, T, 3, H, W], normalised. masks: [B, T, H, W]. logits: [B, T, K, H, W]; with K
            classes all sounding ones are drawn alike.
    """
    pictures = as_pixels(frames, preprocess)
    ground_truths = (masks.cpu().numpy() > 0)[..., None] * np.array([255] * 3)
    marked = logits[:, :, 0] > 0 if logits.shape[2] == 1 else logits.argmax(2) > 0
    found = marked.cpu().numpy()[..., None]
    overlays = np.where(found, (pictures * 0.45 + OVERLAY * 0.55), pictures)
    predictions = found * np.array([255] * 3)
    kinds = (
        ("frame", pictures),
        ("ground truth", ground_truths),
        ("prediction", predictions),
        ("overlay", overlays),
    )
    num_clips, num_frames, height, width, _ = pictures.shape
    rows = num_clips * len(kinds)
    panel = Image.new(
        "RGB", (num_frames * (width + GAP) + GAP, rows * (height + GAP + HEADER) + GAP), (24, 24, 24)
    )
    draw = ImageDraw.Draw(panel)
    for clip in range(num_clips):
        for row, (label, images) in enumerate(kinds):
            top = (clip * len(kinds) + row) * (height + GAP + HEADER) + GAP
            draw.text((GAP, top), f"clip {clip + 1}: {label}", fill=(220, 220, 220))
            for t in range(num_frames):
                image = Image.fromarray(images[clip, t].astype(np.uint8))
                panel.paste(image, (GAP + t * (width + GAP), top + HEADER))
    return panel


def as_pixels(frames: torch.Tensor, preprocess: PreprocessConfig) -> np.ndarray:
    """Normalised frames [..., 3, H, W] as images [..., H, W, 3] uint8."""
    mean = torch.tensor(preprocess.mean)[:, None, None]
    std = torch.tensor(preprocess.std)[:, None, None]
    return ((frames.cpu().float() * std + mean).clamp(0, 1) * 255).byte().movedim(-3, -1).numpy()


def _columns(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]
