"""YAMNet (Plakal and Ellis 2019), a MobileNet trained on AudioSet's 521 classes, up to its embedding.

It takes the same log-mel examples as VGGish, but with an offset of 0.001 in the logarithm; see `PreprocessConfig`.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from sdavs_model.encoders.encoder import Encoder, initialise_zero_mean
from sdavs_model.encoders.loading import Weights, load_matching

STEM_CHANNELS = 32
# Output channels and stride of each separable block.
BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
)


class YAMNet(Encoder):
    """The published network without its classifier, its batch normalisations folded into the convolutions.

    Args:
        weights: under this class's names, as `sdavs_model.weights` converts them; None: random ones.

    Raises:
        ValueError: the weights do not fit.
    """

    embedding = BLOCKS[-1][0]

    def __init__(self, *, weights: Weights | None = None) -> None:
        super().__init__()
        self.stem = _Conv(1, STEM_CHANNELS, 3, stride=2)
        blocks, channels = [], STEM_CHANNELS
        for out, stride in BLOCKS:
            blocks.append(
                nn.Sequential(
                    _Conv(channels, channels, 3, stride=stride, groups=channels), _Conv(channels, out, 1)
                )
            )
            channels = out
        self.blocks = nn.Sequential(*blocks)
        if weights is None:
            initialise_zero_mean(self)
        else:
            load_matching(module=self, weights=weights)

    def forward(self, log_mel: Tensor) -> Tensor:
        """log_mel: [N, 1, 96, 64] -> embeddings [N, 1024], the mean over time and frequency."""
        return self.blocks(self.stem(log_mel)).mean((-2, -1))

    def convolutions(self) -> "list[_Conv]":
        """All convolutions in the order of the data."""
        return [module for module in self.modules() if isinstance(module, _Conv)]


class _Conv(nn.Conv2d):
    """A convolution and its ReLU. With stride 2 it is padded at the bottom and right only, TensorFlow's "same"."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        around = kernel // 2 if stride == 1 else 0
        super().__init__(in_channels, out_channels, kernel, stride=stride, padding=around, groups=groups)
        self.pads = (around,) * 4 if stride == 1 else (0, 0, 1, 1)  # top, left, bottom, right

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W] -> [N, C', H / stride, W / stride]."""
        if self.kernel_size == (1, 1) and x.device.type == "cpu":
            # As the matrix product that it is: torch's own way takes twice as long for few examples on a thread.
            product = F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
            return F.relu(product, inplace=True).permute(0, 3, 1, 2)
        if self.stride[0] == 2:
            x = F.pad(x, (0, 1, 0, 1))
        return F.relu(super().forward(x), inplace=True)
