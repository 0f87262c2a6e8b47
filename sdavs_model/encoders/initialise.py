"""How an audio encoder without normalisation layers begins when it is trained from scratch."""

import math

import torch
from torch import nn

# A ReLU's output has the variance (1 - 1 / pi) of its second moment, and zero-mean kernels see only variance.
ZERO_MEAN_GAIN = math.sqrt(math.pi / (math.pi - 1))


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
