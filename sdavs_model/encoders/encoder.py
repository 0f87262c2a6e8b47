"""The base class of encoders, which can be frozen as a whole, and an initialisation to train them from scratch."""

import math
from typing import Self

import torch
from torch import nn

# A ReLU's output has the variance (1 - 1 / pi) of its second moment, and zero-mean kernels see only variance.
ZERO_MEAN_GAIN = math.sqrt(math.pi / (math.pi - 1))


class Encoder(nn.Module):
    """An encoder that stays as it is once it is frozen.

    Frozen, it has no gradients and stays in eval mode whatever the model around it does, so that dropout is off and
    no running statistics change. Its output is then a function of the input alone and may be cached.

    Attributes:
        frozen: whether it is never trained.
        is_constant: whether, in addition, it stays in eval mode.
    """

    frozen = False
    is_constant = False

    def freeze(self, *, in_train_mode: bool = False) -> None:
        """Never train this encoder again.

        Args:
            in_train_mode: only the gradients are off, as where `eval` was forgotten: while the model around it trains,
                dropout is on and running statistics change.
        """
        self.frozen = True
        self.is_constant = not in_train_mode
        self.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; a frozen encoder stays in eval mode, unless it was frozen otherwise."""
        super().train(mode and not self.is_constant)
        return self


def initialise_zero_mean(encoder: nn.Module) -> None:
    """He initialisation with kernels of zero mean, for every convolution and linear layer of `encoder`.

    Plain He kernels map all sounds to nearly the same direction: many ReLU layers without normalisation pass on
    little but the common mean of their inputs. Kernels that cannot see the mean leave the embeddings of different
    sounds nearly orthogonal, and training starts to listen at once.
    """
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            with torch.no_grad():
                module.weight -= module.weight.flatten(1).mean(1).view(-1, *[1] * (module.weight.ndim - 1))
                module.weight *= ZERO_MEAN_GAIN
            assert module.bias is not None
            nn.init.zeros_(module.bias)
