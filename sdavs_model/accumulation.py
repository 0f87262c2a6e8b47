"""Gradient accumulation: a batch computed in parts, with the memory of one part and the gradient of the whole batch."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sdavs_model.encoders.features import EMBEDDINGS, padding_of
from sdavs_model.losses import segmentation_loss
from sdavs_model.training_step import mean_valid_frames, predict


def accumulated_loss(
    model: nn.Module,
    batch: Mapping[str, Any],
    *,
    num_parts: int,
    earlier: nn.Module | None = None,
    weights: Mapping[str, float] | None = None,
    scale: float = 1.0,
) -> dict[str, Tensor]:
    """As `training_loss`, computed in parts of the batch; all but the last have already run their backward pass.

    The backward pass of the returned loss adds the gradients of all parts, so that an engine that reduces gradients
    over workers in it does so once. Loss, gradients and the running statistics of a model that can `listen` (SDAVS)
    are those of the whole batch; batch normalisations inside a backbone see one part at a time. Between the parts
    gradients are summed in fp32.

    Args:
        model: as for `training_loss`, for the last part.
        batch: as for `training_loss`; at least `num_parts` clips.
        num_parts: number of parts; if it does not divide the clips, some parts have one clip more.
        earlier: the bare model that an engine wraps, for all parts but the last and for the sound. None: `model`.
        weights: of the loss's parts, see `segmentation_loss`.
        scale: factor of the earlier parts' losses in their backward passes, so that fp16 can hold small gradients.

    Returns:
        As `training_loss`: values of the whole batch.
    """
    earlier = earlier or model
    num_clips = len(batch["masks"])
    assert num_parts <= num_clips
    num_frames = mean_valid_frames(batch)
    parameters = [parameter for parameter in earlier.parameters() if parameter.requires_grad]
    sound = _listen(earlier, batch)
    heard = None if sound is None else sound.detach().requires_grad_()
    sources = parameters if heard is None else [*parameters, heard]
    totals: dict[str, Tensor] = {}
    sums: list[Tensor | None] = [None] * len(sources)
    for number in range(num_parts):
        clips = slice(number * num_clips // num_parts, (number + 1) * num_clips // num_parts)
        part = {name: values[clips] for name, values in batch.items()}
        is_last = number == num_parts - 1
        # The last part's graph reaches the sound itself, and through it the audio side of the model.
        of_part = None if heard is None or sound is None else (sound if is_last else heard)[clips]
        logits = predict(model if is_last else earlier, part, sound=of_part)
        masks, valid = part["masks"], part.get("valid")
        losses = segmentation_loss(logits, masks, valid, num_frames=num_frames, weights=weights, checked=True)
        if not is_last:
            gradients = torch.autograd.grad(scale * losses["loss"], sources, allow_unused=True)
            for index, gradient in enumerate(gradients):
                if gradient is not None:
                    before = sums[index]
                    sums[index] = (
                        gradient.to(torch.float32, copy=True) if before is None else before.add_(gradient)
                    )
            losses = {name: value.detach() for name, value in losses.items()}
        totals = {name: value + totals.get(name, 0) for name, value in losses.items()}
    receivers = parameters if sound is None else [*parameters, sound]
    known = [(tensor, total) for tensor, total in zip(receivers, sums, strict=True) if total is not None]
    tensors, earlier_gradients = [tensor for tensor, _ in known], [total / scale for _, total in known]
    return totals | {"loss": _WithGradients.apply(totals["loss"], earlier_gradients, *tensors)}


def _listen(model: Any, batch: Mapping[str, Any]) -> Tensor | None:
    """The sound of all clips at once, because it depends on batch statistics; None for models without `listen`."""
    if not hasattr(model, "listen"):
        return None
    if EMBEDDINGS in batch:
        return model.listen(embeddings=batch[EMBEDDINGS], present=padding_of(batch))
    return model.listen(batch["log_mel"], padding_of(batch))


class _WithGradients(torch.autograd.Function):
    """The identity on the loss; its backward pass also adds gradients that were computed before."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *tensors: Tensor) -> Tensor:
        ctx.gradients, ctx.formats = gradients, [tensor.dtype for tensor in tensors]
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        known = zip(ctx.gradients, ctx.formats, strict=True)
        return gradient, None, *((each * gradient).to(dtype) for each, dtype in known)
