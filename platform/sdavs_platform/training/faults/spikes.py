"""Batches whose loss is far above the usual: their steps leave the weights as they are."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

MEMORY = 50
"""Losses in the average, and losses to see before any counts as a spike. Our choice."""


@dataclass
class UsualLoss:
    """Running average of the losses so far, for a checkpoint."""

    average: float = 0.0
    num_losses: int = 0


class SpikeGuard:
    """Makes the gradients of a batch non-finite if its loss is a spike, since every ZeRO stage skips those.

    The decision stays on the device: no step waits for it.

    Args:
        factor: a loss above this many times the average is a spike; None lets every loss pass.
        usual: the losses before a resume.
        device: of the losses.
    """

    def __init__(self, factor: float | None, *, usual: UsualLoss, device: torch.device | str) -> None:
        self._factor = factor
        self._num_losses = usual.num_losses
        self._average = torch.tensor(usual.average, dtype=torch.float64, device=device)
        self._found = torch.zeros((), dtype=torch.bool, device=device)

    def guarded(self, loss: Tensor) -> Tensor:
        """The loss, or NaN if it is a spike on the mean over the workers; all workers call this together."""
        if self._factor is None:
            return loss
        value = loss.detach().double()
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(value)
            value = value / dist.get_world_size()
        spikes = ~(value <= self._factor * self._average)
        if self._num_losses < MEMORY:
            spikes = torch.zeros_like(spikes)
        self._num_losses += 1
        # At first the mean of all losses, later an exponential average. Spikes do not count.
        weight = 1 / min(self._num_losses, MEMORY)
        self._average = torch.where(spikes, self._average, self._average + weight * (value - self._average))
        self._found = self._found | spikes
        return loss * torch.where(spikes, torch.nan, 1.0).to(loss.dtype)

    def found_spike(self) -> bool:
        """Whether there was a spike since the last call."""
        found = bool(self._found)
        self._found = torch.zeros_like(self._found)
        return found

    def usual(self) -> UsualLoss:
        """For a checkpoint."""
        return UsualLoss(average=float(self._average), num_losses=self._num_losses)
