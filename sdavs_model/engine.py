"""The loss of one training batch and one evaluation pass, without a cluster."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sdavs_model.encoders.features import EMBEDDINGS, Features
from sdavs_model.losses import segmentation_loss
from sdavs_model.metrics import Metrics, ObjectMetrics


def training_loss(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Forward pass and loss of one batch.

    Args:
        model: maps (frames, log_mel) to logits: SDAVS, or an engine that wraps it.
        batch: frames [B, T, 3, H, W] and log_mel [B, T, 1, 96, 64], or encoded clips as of `FeatureClips`;
            masks [B, T, H, W], name [B], and for data sets with frames without annotation valid [B, T].

    Returns:
        The parts of `segmentation_loss`.

    Raises:
        FloatingPointError: the loss is not finite; the message names the clips of the batch.
    """
    losses = segmentation_loss(predict(model, batch), batch["masks"], batch.get("valid"))
    if not torch.isfinite(losses["loss"]):
        raise FloatingPointError(f"the loss is {float(losses['loss'])} on clips {', '.join(batch['name'])}")
    return losses


def predict(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Logits [B, T, K, H, W] of a batch of `TrainingClips`, or of `FeatureClips`, whose clips are encoded already."""
    if EMBEDDINGS in batch:
        return model(features=Features.of_batch(batch))
    return model(batch["frames"], batch["log_mel"])


def move(batch: Mapping[str, Any], device: torch.device | str) -> dict[str, Any]:
    """The batch with its tensors on `device`."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    *,
    device: torch.device | str,
    metrics: Metrics | None = None,
) -> Metrics:
    """Score a model clip by clip.

    Args:
        model: is put into eval mode and left there.
        batches: items of `TrainingClips`, collated by `collate_clips`; of any batch size.
        device: the device of the model.
        metrics: metrics of the data set's protocol (`open_metrics`); None for AVSBench-object's official ones.

    Returns:
        The metrics; the caller merges them over workers and calls `compute`.
    """
    model.eval()
    metrics = metrics or ObjectMetrics()
    for batch in batches:
        batch = move(batch, device)
        logits = predict(model, batch).float()
        for index, clip_logits in enumerate(logits):
            metrics.add_clip(clip_logits, {key: values[index] for key, values in batch.items()})
    return metrics
