"""Multi-scale fusion decoder with direct and skip connections, paper III-D, equations (8) and (9)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Residual blocks of the levels of stride 4, 8, 16 and 32. Deep maps are small, so depth is cheap there; the
# largest level gets one depthwise block. Our choice: the paper describes no block, these agree with its Table X.
NUM_BLOCKS = (1, 1, 2, 4)

# Bytes of a frame's largest map from which a CPU decodes it frame by frame. Measured: from 256 kB (128 px, width 64) on
# it is faster, at 147 kB (96 px) slower by the overhead of more calls.
FRAME_BY_FRAME = 200_000


class Fuse(nn.Module):
    """The dashed "Fuse" box of figure 2: merges the two refined streams of a level.

    Args:
        width: channels C of each stream and of the output.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.video = Pointwise(width, width)
        self.audio = Pointwise(width, width, bias=False)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        """video: F'_{a->v} [N, C, h, w], audio: F'_{v->a} [N, C, H, W] -> [N, C, H, W].

        The sum of two 1x1 convolutions is one over the concatenated streams. The first runs on the coarser grid of its
        stream: a 1x1 convolution and a bilinear resize commute.
        """
        coarse = self.video(video)
        if coarse.shape[-2:] == audio.shape[-2:]:
            return self.audio(audio) + coarse
        return _upsample(coarse, audio).add_(self.audio(audio))


class Decoder(nn.Module):
    """Four stages, deepest first; the last one also receives every earlier one (equations 8 and 9).

    Args:
        width: channels C of all levels.
        num_classes: K channels of the mask.
    """

    def __init__(self, *, width: int, num_classes: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(*(_block(level, width) for _ in range(num_blocks)))
            for level, num_blocks in enumerate(NUM_BLOCKS)
        )
        self.norm = GroupNorm(width)
        self.mlp = nn.Sequential(Pointwise(width, width // 2), nn.GELU())
        self.fc = Pointwise(width // 2, num_classes)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """levels: four fused maps [N, C, H / 2^i, W / 2^i], largest first -> mask logits [N, K, H, W]."""
        decoded = rail = self.stages[3](levels[3])
        for level in (2, 1):
            decoded = self.stages[level](_upsample(decoded, levels[level]).add_(levels[level]))
            # The rail accumulates the earlier stages on the way up, so only one resize is of full size.
            rail = _upsample(rail, decoded).add_(decoded)
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or levels[0].is_cuda:
            return self._largest(levels[0], decoded, rail)
        if levels[0][0].nbytes < FRAME_BY_FRAME:
            return self._largest(levels[0], decoded, rail)
        # Frame by frame on a CPU: a map of the largest level then stays in the cache and its memory is reused, while
        # all frames at once spend a good part of the time on page faults.
        frames = zip(levels[0].split(1), decoded.split(1), rail.split(1), strict=True)
        return torch.cat([self._largest(*frame) for frame in frames])

    def _largest(self, level: Tensor, decoded: Tensor, rail: Tensor) -> Tensor:
        """The last stage with its skip connection (equation 8), then the mask (equation 9)."""
        last = self.stages[0](_upsample(decoded, level).add_(level))
        return self.fc(self.mlp(self.norm(_upsample(rail, last).add_(last))))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with normalisation in front, and the identity."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            GroupNorm(width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            GroupNorm(width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class DepthwiseBlock(nn.Module):
    """Normalisation, a depthwise 3x3 convolution and the identity, for the largest map.

    The pointwise half of a separable convolution is the decoder's MLP, which follows.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(GroupNorm(width), nn.Conv2d(width, width, 3, padding=1, groups=width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Pointwise(nn.Conv2d):
    """A 1x1 convolution, computed as the matrix product that it is.

    torch's convolution selects a slow kernel on one CPU thread. The channels-last maps between backbone and masks
    need no copy for the product.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W] -> [N, C', H, W]."""
        return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class GroupNorm(nn.GroupNorm):
    """Normalisation over groups of about eight channels.

    Our choice. Independent of the batch, so any split over workers computes the same. Normalising each position
    alone was tried and dropped: trained from scratch, such a model began to listen later.

    Args:
        channels: C; the number of groups is the largest up to C / 8 that divides it.
    """

    def __init__(self, channels: int) -> None:
        most = max(channels // 8, 1)
        super().__init__(next(g for g in range(most, 0, -1) if channels % g == 0), channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W] -> the same shape."""
        # torch 2.11 crashes in the backward pass of a channels-last group norm whose input needs no gradient,
        # as behind a frozen encoder.
        if torch.is_grad_enabled() and not x.requires_grad:
            x = x.contiguous()
        return super().forward(x)


def _block(level: int, width: int) -> nn.Module:
    return DepthwiseBlock(width=width) if level == 0 else ResidualBlock(width=width)


def _upsample(x: Tensor, like: Tensor) -> Tensor:
    """x at the size of `like`, always in memory of its own: callers add to it in place."""
    assert x.shape[-2:] != like.shape[-2:]
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
