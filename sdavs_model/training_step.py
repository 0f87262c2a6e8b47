"""The loss of one training batch and one evaluation pass, without a cluster."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sdavs_model.architectures.base import SegmentationModel
from sdavs_model.encoders.features import EMBEDDINGS, Features, padding_of
from sdavs_model.losses import segmentation_loss
from sdavs_model.metrics import Metrics, ObjectMetrics


def training_loss(
    model: nn.Module, batch: Mapping[str, Any], *, weights: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """Forward pass and loss of one batch, or of this worker's part of it.

    In a process group all workers have to call this together. The mean of their losses, and of their gradients, is
    then the loss, and the gradient, of the whole batch in one process: every valid frame counts the same, however
    clips and annotated frames are spread over the workers.

    Args:
        model: see `predict`.
        batch: as for `predict`, with masks [B, T, H, W], and for data sets with frames without annotation
            valid [B, T].
        weights: of the loss's parts, see `segmentation_loss`.

    Returns:
        The parts of `segmentation_loss`, which may not be finite.
    """
    masks, valid = batch["masks"], batch.get("valid")
    num_frames = mean_valid_frames(batch)
    logits = predict(model, batch)
    return segmentation_loss(logits, masks, valid, num_frames=num_frames, weights=weights, checked=True)


def mean_valid_frames(batch: Mapping[str, Any]) -> Tensor:
    """The mean number of valid frames per worker, a scalar, by which each worker divides its sum over frames.

    In a process group all workers have to call this together.
    """
    masks, valid = batch["masks"], batch.get("valid")
    if valid is None:
        num_frames = torch.full((), masks.shape[0] * masks.shape[1], dtype=torch.float32, device=masks.device)
    else:
        num_frames = valid.sum(dtype=torch.float32).to(masks.device)
    num_workers = dist.get_world_size() if dist.is_initialized() else 1
    if num_workers > 1:
        dist.all_reduce(num_frames)
    return num_frames.clamp_min(1) / num_workers


def predict(model: nn.Module, batch: Mapping[str, Any], *, sound: Tensor | None = None) -> Tensor:
    """Logits [B, T, K, H, W] of a batch of `TrainingClips`, or of `FeatureClips`, whose clips are encoded already.

    Args:
        model: maps (frames, log_mel), and `present` where clips are padded, to logits: a `SegmentationModel`, or an
            engine that wraps it.
        batch: frames [B, T, 3, H, W] and log_mel [B, T, 1, 96, 64], or encoded clips; and for data sets with clips of
            different lengths present [B, T] bool, False for padding.
        sound: the output of `listen`, in place of log_mel.
    """
    heard = {} if sound is None else {"sound": sound}
    if EMBEDDINGS in batch:
        return model(features=Features.of_batch(batch), **heard)
    present = padding_of(batch)
    if present is None:
        return model(batch["frames"], batch["log_mel"], **heard)
    return model(batch["frames"], batch["log_mel"], present, **heard)


def predict_under_sounds(
    model: SegmentationModel, batch: Mapping[str, Any], sounds: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """The name and the logits [B, T, K, H, W] of each sound with the same frames.

    The frames are encoded once, unless the sound changes what the backbone sees.

    Args:
        batch: frames, and where clips are padded present, as for `predict`; its own sound is not used.
        sounds: log_mel [B, T, 1, 96, 64] by name.
    """
    frames, present = batch["frames"], padding_of(batch)
    if not model.config.caches_features:
        for name, log_mel in sounds.items():
            yield name, predict(model, {**batch, "log_mel": log_mel})
        return
    maps = model.encode_frames(frames, present)
    size = (frames.shape[-2], frames.shape[-1])
    for name, log_mel in sounds.items():
        embeddings = model.encode_sound(log_mel, present)
        yield name, model(features=Features(maps=maps, embeddings=embeddings, size=size, present=present))


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
