"""Where a picture agrees with a sound: the one place where audio gets a position."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Agreement(nn.Module):
    """Head-wise cosine similarity of a sound with every position of a picture.

    Audio alone cannot know where anything is. SNRP's spatial selector and DAMF's audio map both need to know,
    and the cheapest thing that does is a dot product (our choice; the paper leaves it open).

    Args:
        num_heads: independent comparisons; each sees C / num_heads channels.
    """

    def __init__(self, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        # A cosine lies in [-1, 1]; a learned scale lets a head be as sharp as it needs to be.
        self.log_scale = nn.Parameter(torch.full((num_heads,), 1.0))

    def forward(self, sound: Tensor, picture: Tensor) -> Tensor:
        """sound: [N, C], picture: [N, C, H, W] -> similarity [N, heads, H, W], in [-scale, scale]."""
        N, C, H, W = picture.shape
        sound = F.normalize(sound.view(N, self.num_heads, 1, C // self.num_heads), dim=-1)
        picture = picture.reshape(N, self.num_heads, C // self.num_heads, H * W)
        length = picture.square().sum(2, keepdim=True).clamp_min(1e-6).rsqrt()
        similarity = (sound @ picture) * length * self.log_scale.exp().view(1, -1, 1, 1)
        return similarity.view(N, self.num_heads, H, W)
