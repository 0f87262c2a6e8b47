"""VGGish (Hershey et al. 2017), written to load the public `torchvggish` weights (paper IV-A).

Log-mel examples are made in `sdavs_model.data.core.preprocess`, the one place for preprocessing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sdavs_model.weights.read import load_matching, read_state_dict

CONV_CHANNELS = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool")
HIDDEN = 4096
EMBEDDING = 128

# A ReLU's output has the variance (1 - 1 / pi) of its second moment, and zero-mean kernels see only variance.
ZERO_MEAN_GAIN = math.sqrt(math.pi / (math.pi - 1))


class VGGish(nn.Module):
    """The published network: 72,141,184 parameters at width 1, names as in `torchvggish`.

    Args:
        width: fraction of the published channels; only 1.0 fits public weights.
        weights: a local `vggish-10086976.pth`; with it the network is frozen, without it it is trained.

    Raises:
        ValueError: the weights file is missing or does not fit.
    """

    def __init__(self, *, width: float = 1.0, weights: str | None = None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for item in CONV_CHANNELS:
            if item == "pool":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                out = _scale(int(item), width)
                layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU(inplace=True)]
                channels = out
        hidden = _scale(HIDDEN, width)
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(channels * 6 * 4, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, EMBEDDING),
            nn.ReLU(inplace=True),
        )
        self.frozen = weights is not None
        if weights is None:
            self._initialise()
        else:
            state = read_state_dict(weights, field="vggish_weights")
            load_matching(
                module=self, state=state, source=weights, field="vggish_weights", ignore_prefixes=("pproc.",)
            )
            self.requires_grad_(False)

    def forward(self, log_mel: Tensor) -> Tensor:
        """log_mel: [N, 1, 96, 64] -> embeddings [N, 128]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            x = self.features(log_mel)  # [N, 512, 6, 4]
            # The TensorFlow original flattens channels-last; the public weights expect that order.
            x = x.permute(0, 2, 3, 1).flatten(1)
            return self.embeddings(x)

    def _initialise(self) -> None:
        """He initialisation with kernels of zero mean.

        Plain He kernels map all sounds to nearly the same direction: nine ReLU layers without normalisation
        pass on little but the common mean of their inputs. Kernels that cannot see the mean leave the
        embeddings of different sounds nearly orthogonal, and training starts to listen at once.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                with torch.no_grad():
                    module.weight -= (
                        module.weight.flatten(1).mean(1).view(-1, *[1] * (module.weight.ndim - 1))
                    )
                    module.weight *= ZERO_MEAN_GAIN
                assert module.bias is not None
                nn.init.zeros_(module.bias)


def _scale(channels: int, width: float) -> int:
    return max(8, round(channels * width))
