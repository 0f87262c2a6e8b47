"""The "Audio Attention" block of the paper's figure 2, between VGGish and the four levels.

The text never describes it. Our choice: a small pre-norm transformer over the seconds of a clip, so that a
second can be heard against its neighbours (steady noise is what does not change).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdavs_model.encoders.batch_norm import SharedBatchNorm


class AudioAttention(nn.Module):
    """Projects the audio encoder's embeddings to the common width and lets the seconds attend to each other.

    Args:
        embedding: channels E of the audio encoder.
        width: channels C of the output.
        num_heads: attention heads.
        num_layers: transformer layers; two bring the parameter count to the paper's Table X.
    """

    def __init__(self, *, embedding: int, width: int, num_heads: int, num_layers: int = 2) -> None:
        super().__init__()
        # VGGish and YAMNet end in a ReLU, so all embeddings point much the same way, and what tells sounds apart is a
        # small part of them. Centred and scaled over the whole batch it is all there is. Without this, an encoder
        # that is trained from scratch stops telling sounds apart before the picture side asks for it.
        self.centre = SharedBatchNorm(embedding)
        self.project = nn.Linear(embedding, width)
        self.layers = nn.ModuleList([_Layer(width=width, num_heads=num_heads) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(width)

    def forward(self, embeddings: Tensor, present: Tensor | None = None) -> Tensor:
        """Attend over the seconds of each clip.

        Args:
            embeddings: [B, T, E].
            present: [B, T] bool, False for the padding of shorter clips, which then takes part neither in the
                batch's statistics nor in the attention; None if no clip is padded.

        Returns:
            F_a: [B, T, C]; of no meaning for padding.
        """
        flat = embeddings.flatten(0, 1)
        if present is None:
            centred = self.centre(flat)
        else:
            chosen = present.flatten()
            centred = torch.zeros_like(flat)
            centred[chosen] = self.centre(flat[chosen])
        x = self.project(centred.view_as(embeddings))
        for layer in self.layers:
            x = layer(x, present)
        return self.norm(x)


class _Layer(nn.Module):
    def __init__(self, *, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """x: [B, T, C] -> [B, T, C]; keys that are not `present` are left out."""
        B, T, C = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(B, T, 3, self.num_heads, C // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, T, C / heads]
        mask = None if present is None else present[:, None, None]  # [B, 1, 1, T], for all heads and queries
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(B, T, C)
        x = x + self.out(attended)
        return x + self.mlp(self.norm_mlp(x))
