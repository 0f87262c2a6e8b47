"""HTS-AT (Chen et al. 2022), a Swin transformer trained on AudioSet, up to its embedding; on timm's Swin.

It takes its own log-mel examples, in decibels; see `PreprocessConfig.example`.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdavs_model.encoders.encoder import Encoder
from sdavs_model.encoders.loading import Weights, load_matching
from sdavs_model.lean_timm import timm

NUM_MEL_BINS = 64
PICTURE_SIZE = 256
# A spectrogram is stretched to 1024 frames and cut into four runs of 256, which are laid below each other.
NUM_RUNS = PICTURE_SIZE // NUM_MEL_BINS
NUM_STRIPES = 2

# Tensors of the published checkpoint that are not the encoder's: spectrogram layers, classifiers, attention constants.
_OTHERS = re.compile(
    r"spectrogram_extractor\.|logmel_extractor\.|tscam_conv\.|head\.|.*\.(attn_mask|relative_position_index)$"
)
_PREFIX = "sed_model."


class HTSAT(Encoder):
    """The published network without its classifiers.

    Args:
        weights: those of its AudioSet checkpoint, under their own or this class's names; None: random ones.

    Raises:
        ValueError: the weights do not fit.
    """

    embedding = 768

    def __init__(self, *, weights: Weights | None = None) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(NUM_MEL_BINS)
        self.swin = timm.models.SwinTransformer(
            img_size=PICTURE_SIZE,
            patch_size=4,
            in_chans=1,
            num_classes=0,
            embed_dim=96,
            depths=(2, 2, 6, 2),
            num_heads=(4, 8, 16, 32),
            window_size=8,
        )
        if weights is not None:
            load_matching(module=self, weights=weights.renamed(under_our_names(weights.tensors)))

    def forward(self, log_mel: Tensor) -> Tensor:
        """log_mel: [N, 1, frames, 64] in decibels, 87 frames for a second -> embeddings [N, 768].

        Frozen and in train mode, which is DDESeg's ablation, it also gets masked spectrograms (SpecAugment).
        """
        normed = self.bn0(log_mel.transpose(1, 3)).transpose(1, 3)  # each mel bin by itself
        if self.training and self.frozen:
            normed = without_stripes(without_stripes(normed, dim=2, widest=64), dim=3, widest=8)
        return self.swin.forward_features(_folded(normed)).mean((1, 2))


def without_stripes(spectrogram: Tensor, *, dim: int, widest: int) -> Tensor:
    """SpecAugment (Park et al. 2019): two random stripes of each spectrogram [N, 1, frames, mel bins] become 0.

    Args:
        dim: 2 for stripes of time, 3 for stripes of frequency.
        widest: most frames, or bins, of a stripe.
    """
    N, size = len(spectrogram), spectrogram.shape[dim]
    at = torch.arange(size, device=spectrogram.device)
    kept = torch.ones(N, size, dtype=torch.bool, device=spectrogram.device)
    for _ in range(NUM_STRIPES):
        width = torch.randint(widest + 1, (N, 1), device=spectrogram.device)
        start = (torch.rand(N, 1, device=spectrogram.device) * (size - width + 1)).long()
        kept &= (at < start) | (at >= start + width)
    return spectrogram * kept.view([N, 1, size, 1] if dim == 2 else [N, 1, 1, size])


def under_our_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the published checkpoint under the names of `HTSAT`; tensors that have these already stay.

    The checkpoint keeps a stage's patch merging at the stage's end, timm at the beginning of the next stage.
    """
    if any(name.startswith("swin.") for name in tensors):
        return dict(tensors)
    ours: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        name = name.removeprefix(_PREFIX)
        if _OTHERS.match(name):
            continue
        name = re.sub(r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name)
        ours[name if name.startswith("bn0.") else f"swin.{name}"] = tensor
    return ours


def _folded(spectrogram: Tensor) -> Tensor:
    """[N, 1, frames, 64] -> a picture [N, 1, 256, 256]: low to high from top to bottom in each of four runs of time."""
    wanted = (NUM_RUNS * PICTURE_SIZE, NUM_MEL_BINS)
    stretched = F.interpolate(spectrogram, size=wanted, mode="bicubic", align_corners=True)
    runs = stretched[:, 0].unflatten(1, (NUM_RUNS, PICTURE_SIZE))  # [N, 4, 256, 64]
    return runs.transpose(2, 3).flatten(1, 2)[:, None]
