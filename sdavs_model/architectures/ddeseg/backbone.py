"""A backbone that uses the sound: a stage's tokens are changed between its patch embedding and its blocks.

DDESeg's backbone is MiT-B5 (SegFormer, Xie et al. 2021). timm has no MiT under that name, but its pvt_v2_b5 has the
same layers with the same sizes, and its filter reads the names of MiT's weight files.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sdavs_model.encoders.loading import Weights
from sdavs_model.encoders.visual import VisualEncoder
from sdavs_model.lean_timm import timm

Between = Callable[[int, Tensor], Tensor]
"""Called with a stage's number, from 0, and its embedded patches [N, C, H, W]; gives what the blocks get instead."""


class InterleavedBackbone(VisualEncoder):
    """A pvt_v2 backbone whose stages are run one by one.

    Args:
        config, weights: as for `VisualEncoder`.
        first_stride: of the first patch embedding; 2 doubles the size of all four maps.
        drop_path: stochastic depth of the last block; it rises linearly from 0 in the first.
    """

    def __init__(self, *, config: Any, weights: Weights | None, first_stride: int, drop_path: float) -> None:
        super().__init__(config=config, weights=weights)
        self.backbone["patch_embed"].proj.stride = (first_stride, first_stride)
        blocks = [block for stage in self._stages() for block in stage.blocks]
        rates = torch.linspace(0, drop_path, len(blocks), device="cpu").tolist()
        for block, rate in zip(blocks, rates, strict=True):
            block.drop_path1, block.drop_path2 = timm.layers.DropPath(rate), timm.layers.DropPath(rate)

    def forward(self, frames: Tensor, between: Between = lambda stage, patches: patches) -> list[Tensor]:
        """frames: [N, 3, H, W] -> four maps [N, C_i, H / s / 2^i, W / s / 2^i], s the first stride."""
        maps: list[Tensor] = []
        for number, stage in enumerate(self._stages()):
            patches = self.backbone["patch_embed"](frames) if number == 0 else stage.downsample(maps[-1])
            heard = between(number, patches.permute(0, 3, 1, 2))
            N, C, H, W = heard.shape
            tokens = heard.flatten(2).transpose(1, 2)
            for block in stage.blocks:
                if stage.grad_checkpointing and torch.is_grad_enabled():
                    tokens = checkpoint(block, tokens, (H, W), use_reentrant=False)
                else:
                    tokens = block(tokens, (H, W))
            maps.append(stage.norm(tokens).transpose(1, 2).reshape(N, C, H, W))
        return maps

    def _stages(self) -> list[Any]:
        return [self.backbone[f"stages_{number}"] for number in range(4)]
