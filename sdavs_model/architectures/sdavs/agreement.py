"""Similarity of a sound with every position of a feature map: the only place where audio gets a position."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Agreement(nn.Module):
    """Head-wise cosine similarity of a sound with every position of a feature map.

    Audio has no positions of its own. SNRP's spatial selector and DAMF's audio map both need them, and the cheapest
    source is a dot product with the video features (our choice; the paper leaves it open).

    Args:
        width: channels C.
        num_heads: independent comparisons, each over C / num_heads channels.
    """

    head_of: Tensor

    def __init__(self, *, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        # A cosine lies in [-1, 1]; a learned scale sets how sharp each head is.
        self.log_scale = nn.Parameter(torch.full((num_heads,), 1.0))
        owner = torch.arange(width) // (width // num_heads)
        self.register_buffer("head_of", F.one_hot(owner, num_heads).float(), persistent=False)  # [C, heads]

    def forward(self, sound: Tensor, picture: Tensor) -> Tensor:
        """sound: [N, C], picture: [N, C, H, W] -> similarity [N, heads, H, W], in [-scale, scale]."""
        N, C, H, W = picture.shape
        tokens = picture.permute(0, 2, 3, 1).reshape(N, H * W, C)
        sound = F.normalize(sound.view(N, self.num_heads, -1), dim=-1).view(N, C, 1)
        # One matrix product for all heads, with the sound laid out block-diagonally: no map is copied.
        products = tokens @ (sound * self.head_of.to(sound.dtype))  # [N, HW, heads]
        lengths = torch.linalg.vector_norm(tokens.view(N, H * W, self.num_heads, -1), dim=-1)
        similarity = products / lengths.clamp_min(1e-3) * self.log_scale.exp()
        return similarity.view(N, H, W, self.num_heads).permute(0, 3, 1, 2)
