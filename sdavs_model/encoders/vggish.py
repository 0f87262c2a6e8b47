"""VGGish (Hershey et al. 2017), written to load the public `torchvggish` weights (paper IV-A).

Log-mel examples are made in `sdavs_model.data.core.preprocess`, the one place for preprocessing.
"""

from torch import Tensor, nn

from sdavs_model.encoders.encoder import Encoder, initialise_zero_mean
from sdavs_model.encoders.loading import Weights, load_matching

CONV_CHANNELS = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool")
HIDDEN = 4096
EMBEDDING = 128


class VGGish(Encoder):
    """The published network: 72,141,184 parameters at width 1, names as in `torchvggish`.

    Args:
        width: fraction of the published channels; only 1.0 fits public weights.
        weights: those of `vggish-10086976.pth`, whose PCA is left out; None: random ones.

    Raises:
        ValueError: the weights do not fit.
    """

    embedding = EMBEDDING

    def __init__(self, *, width: float = 1.0, weights: Weights | None = None) -> None:
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
        if weights is None:
            initialise_zero_mean(self)
        else:
            network = {k: v for k, v in weights.tensors.items() if not k.startswith("pproc.")}
            load_matching(module=self, weights=weights.renamed(network))

    def forward(self, log_mel: Tensor) -> Tensor:
        """log_mel: [N, 1, 96, 64] -> embeddings [N, 128]."""
        x = self.features(log_mel)  # [N, 512, 6, 4]
        # The TensorFlow original flattens channels-last; the public weights expect that order.
        x = x.permute(0, 2, 3, 1).flatten(1)
        return self.embeddings(x)


def _scale(channels: int, width: float) -> int:
    return max(8, round(channels * width))
