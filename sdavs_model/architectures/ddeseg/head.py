"""The segmentation head: SegFormer's (Xie et al. 2021), all four stages at the size of the largest."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from sdavs_model.encoders.batch_norm import SharedBatchNorm


class SegFormerHead(nn.Module):
    """Projects four maps to one width, merges them, classifies each pixel; 3.2 M parameters with the published sizes.

    Args:
        channels: of the four maps, largest map first.
        width: the common width, 768 as published.
        num_classes: K, channels of the mask.
        dropout: of whole channels before the classifier.
    """

    def __init__(
        self, *, channels: Sequence[int], width: int, num_classes: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(c, width) for c in channels)
        # A 1x1 convolution over the four concatenated maps is the sum of one for each of them.
        self.merge = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in channels)
        self.norm = SharedBatchNorm(width, eps=1e-3, momentum=0.03)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(width, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps: four of [N, C_i, H_i, W_i], largest first -> mask logits [N, K, H_0, W_0].

        Each map is projected at its own size and enlarged afterwards: a 1x1 convolution and a bilinear resize commute.
        """
        size = maps[0].shape[-2:]
        merged = None
        for project, merge, level in zip(self.project, self.merge, maps, strict=True):
            own = merge(project(level.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
            if own.shape[-2:] != size:
                own = F.interpolate(own, size=size, mode="bilinear", align_corners=False)
            merged = own if merged is None else merged + own
        assert merged is not None
        N, C, H, W = merged.shape
        pixels = F.relu(self.norm(merged.permute(0, 2, 3, 1).reshape(-1, C)))
        return self.classify(self.dropout(pixels.view(N, H, W, C).permute(0, 3, 1, 2)))
