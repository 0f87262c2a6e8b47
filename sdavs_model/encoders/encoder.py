"""What both encoders have in common: a part that can be frozen whole."""

from typing import Self

from torch import nn


class Encoder(nn.Module):
    """An encoder that stays as it is once it is frozen.

    Frozen, it has no gradients and stays in eval mode whatever the model around it does, so that dropout is off and
    no running statistics change. Its output is then a function of the input alone and may be cached.
    """

    frozen = False

    def freeze(self) -> None:
        """Never train this encoder again."""
        self.frozen = True
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; a frozen encoder stays in eval mode."""
        super().train(mode and not self.frozen)
        return self
