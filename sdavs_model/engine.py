"""One training step and one evaluation pass, without a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from sdavs_model.losses import segmentation_loss
from sdavs_model.metrics import Metrics, ObjectMetrics

AudioControl = Literal["right", "muted", "swapped"]


def training_loss(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Forward pass and loss of one batch.

    Args:
        model: anything that maps (frames, log_mel) to logits: SDAVS, or an engine that wraps it.
        batch: frames [B, T, 3, H, W], log_mel [B, T, 1, 96, 64], masks [B, T, H, W], and where a data set
            leaves frames without annotation also valid [B, T].

    Returns:
        The parts of `segmentation_loss`.

    Raises:
        FloatingPointError: the loss is not finite; names the clips of the batch.
    """
    losses = segmentation_loss(model(batch["frames"], batch["log_mel"]), batch["masks"], batch.get("valid"))
    if not torch.isfinite(losses["loss"]):
        raise FloatingPointError(f"the loss is {float(losses['loss'])} on clips {', '.join(batch['name'])}")
    return losses


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
        batches: items of `TrainingClips`, put together by `collate_clips`; of any batch size.
        device: where the model lives.
        metrics: of the data set's protocol (`open_metrics`); None for AVSBench-object's official one.

    Returns:
        The metrics, to be merged over workers and computed by the caller.
    """
    model.eval()
    metrics = metrics or ObjectMetrics()
    for batch in batches:
        batch = move(batch, device)
        logits = model(batch["frames"], batch["log_mel"]).float()
        for index, clip_logits in enumerate(logits):
            metrics.add_clip(clip_logits, {key: values[index] for key, values in batch.items()})
    return metrics


class OtherSound(Dataset):
    """A data set whose sound is replaced while pictures and masks stay; `hear` says by what.

    Args:
        clips: items with "log_mel" and "category" (which sounds the clip has; "" where unknown).
    """

    def __init__(self, clips: Any) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = dict(self.clips[index])
        item["log_mel"] = self.hear(index, item["log_mel"])
        return item

    def hear(self, index: int, log_mel: Tensor) -> Tensor:
        """What clip `index` sounds like now, [T, 1, 96, 64]; `log_mel` is its own sound."""
        raise NotImplementedError


class AudioControlled(OtherSound):
    """A data set whose sound is taken away or exchanged, to see whether a model listens.

    Args:
        clips: see `OtherSound`.
        control: "right" leaves it alone, "muted" replaces the sound by silence, "swapped" by that of the next
            clip that shares no category with this one.
        silence: [1, 96, 64], the log-mel example of silence; `Preprocessor` knows it.

    Raises:
        ValueError: "swapped" and no clip with other categories exists.
    """

    def __init__(self, clips: Any, *, control: AudioControl, silence: Tensor) -> None:
        super().__init__(clips)
        self.control = control
        self.silence = silence
        if control == "swapped":
            self.partners = swap_partners(clips.categories)

    def hear(self, index: int, log_mel: Tensor) -> Tensor:
        if self.control == "muted":
            return self.silence.expand_as(log_mel).clone()
        if self.control == "swapped":
            return self.clips[self.partners[index]]["log_mel"]
        return log_mel


def swap_partners(categories: list[str], seen: list[str] | None = None) -> list[int]:
    """For each clip the next one, cyclically, with which it shares no sound category.

    Args:
        categories: per clip the sounding categories joined by "+", or "" where unknown.
        seen: per clip the visible categories, joined likewise. If given, the partner has a sound and none of
            it belongs to anything visible either: sound from off screen.

    Raises:
        ValueError: a clip has no such partner.
    """
    sounds = [set(c.split("+")) - {""} for c in categories]
    visible = [set(c.split("+")) for c in seen or [""] * len(sounds)]
    partners = []
    for i, own in enumerate(sounds):
        order = (j % len(sounds) for j in range(i + 1, i + len(sounds)))
        unlike = (j for j in order if not (own | visible[i]) & sounds[j])
        partner = next((j for j in unlike if seen is None or sounds[j]), None)
        if partner is None:
            also = "or what is seen in it " if seen else ""
            raise ValueError(f"swapped audio: clip {i} shares a category {also}with every other clip")
        partners.append(partner)
    return partners
