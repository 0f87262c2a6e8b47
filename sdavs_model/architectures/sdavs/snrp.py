"""Selective Noise-Resilient Processor, paper III-B, equations (1) to (3).

Two gates computed from the audio are applied to the video features in turn: first over channels (CFS), then over
positions (SFS). The audio itself passes unchanged (figure 2).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdavs_model.architectures.sdavs.agreement import Agreement
from sdavs_model.architectures.sdavs.config import Ablation
from sdavs_model.cpu_memory import may_overwrite

# Side of the map that `AudioSpatialSelector` decodes from audio alone, before upsampling.
AUDIO_MAP = 6


@dataclass
class SNRPOutput:
    """SNRP's outputs of one level, with the intermediate ones that the paper's figures 5 and 8 show."""

    source: Tensor
    """F_v before both selectors: [B, T, C, H, W]."""
    video: Tensor
    """F'_v after both selectors: [B, T, C, H, W] (equation 3)."""
    channel_gate: Tensor | None
    """w_c: [B, T, C], or None without the selector (equation 1)."""
    spatial_gate: Tensor | None
    """w_s: [B, T, 1, H, W] in (0, 1), or None without the selector (equation 3)."""

    kept: Tensor | None
    """`channel_selected`, or None if it was written over."""

    @property
    def channel_selected(self) -> Tensor:
        """F~_v after the channel selector: [B, T, C, H, W] (equation 2). In the graph that led to `video`, if any."""
        if self.kept is not None:
            return self.kept
        assert self.channel_gate is not None
        return self.source * self.channel_gate[..., None, None]


class SNRP(nn.Module):
    """The selectors of one level.

    Args:
        width: channels C.
        num_heads: heads of the spatial selector's agreement.
        ablation: decides with `channel_selector`, `spatial_selector` and `spatial_gate`.
    """

    def __init__(self, *, width: int, num_heads: int, ablation: Ablation) -> None:
        super().__init__()
        self.channel = ChannelSelector(width=width) if ablation.channel_selector else None
        self.spatial: nn.Module | None = None
        if ablation.spatial_selector:
            selector = SpatialSelector if ablation.spatial_gate == "agreement" else AudioSpatialSelector
            self.spatial = selector(width=width, num_heads=num_heads)

    def forward(self, video: Tensor, audio: Tensor, present: Tensor | None = None) -> SNRPOutput:
        """video F_v: [B, T, C, H, W], audio F_a: [B, T, C], present: [B, T] bool, None if no clip is padded."""
        channel_gate = spatial_gate = None
        selected = video
        if self.channel is not None:
            channel_gate = self.channel(audio, present)
            selected = video * channel_gate[..., None, None]  # equation (2)
        refined = selected
        if self.spatial is not None:
            spatial_gate = self.spatial(selected, audio, present)
            result = selected if may_overwrite() and selected is not video else None
            refined = torch.mul(selected, spatial_gate, out=result)  # equation (3)
        kept = (
            None if refined is selected and selected is not video and self.spatial is not None else selected
        )
        return SNRPOutput(video, refined, channel_gate, spatial_gate, kept)


class _Extractor(nn.Module):
    """Figure 2's "Extractor" and "Assessment": separates signal from noise in each second, given its neighbours.

    Our choice: a convolution over three seconds, because steady noise is what does not change, and a two-layer
    perceptron. Both run before upsampling, which is why SNRP needs almost no operations (Table X: 0.05 G).
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.neighbours = nn.Conv1d(width, width, 3, padding=1)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, audio: Tensor, present: Tensor | None = None) -> Tensor:
        """audio: [B, T, C] -> [B, T, C]."""
        x = self.norm(audio)
        if present is not None:
            # A clip then ends where its own seconds end, as it does without padding.
            x = x * present.unsqueeze(-1)
        return self.mlp(x + self.neighbours(x.transpose(1, 2)).transpose(1, 2))


class ChannelSelector(nn.Module):
    """CFS: w_c = 2 sigmoid(MLP(F_a)), one weight per channel and second (equation 1).

    The paper says that high weights enhance and low weights suppress, and names no sigmoid here. Our choice: the
    range (0, 2), in which a zero input leaves the video features unchanged.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.extract = _Extractor(width=width)

    def forward(self, audio: Tensor, present: Tensor | None = None) -> Tensor:
        """audio: [B, T, C] -> w_c: [B, T, C] in (0, 2)."""
        return 2 * torch.sigmoid(self.extract(audio, present))


class SpatialSelector(nn.Module):
    """SFS: w_s = sigmoid(Conv(agreement of F_a and F~_v)), one weight per position (equation 3)."""

    def __init__(self, *, width: int, num_heads: int) -> None:
        super().__init__()
        self.extract = _Extractor(width=width)
        self.agreement = Agreement(width=width, num_heads=num_heads)
        self.assess = nn.Sequential(
            nn.Conv2d(num_heads, num_heads, 3, padding=1), nn.GELU(), nn.Conv2d(num_heads, 1, 1)
        )

    def forward(self, video: Tensor, audio: Tensor, present: Tensor | None = None) -> Tensor:
        """video: [B, T, C, H, W], audio: [B, T, C] -> w_s: [B, T, 1, H, W] in (0, 1)."""
        B, T = audio.shape[:2]
        similarity = self.agreement(self.extract(audio, present).flatten(0, 1), video.flatten(0, 1))
        return torch.sigmoid(self.assess(similarity)).unflatten(0, (B, T))


class AudioSpatialSelector(nn.Module):
    """SFS as figure 2 draws it: a map decoded from audio alone, upsampled to the size of the video features."""

    def __init__(self, *, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.extract = _Extractor(width=width)
        self.decode = nn.Linear(width, num_heads * AUDIO_MAP * AUDIO_MAP)
        self.assess = nn.Conv2d(num_heads, 1, 3, padding=1)

    def forward(self, video: Tensor, audio: Tensor, present: Tensor | None = None) -> Tensor:
        """video: [B, T, C, H, W], audio: [B, T, C] -> w_s: [B, T, 1, H, W] in (0, 1)."""
        B, T = audio.shape[:2]
        maps = self.decode(self.extract(audio, present)).view(B * T, self.num_heads, AUDIO_MAP, AUDIO_MAP)
        maps = F.interpolate(self.assess(maps), size=video.shape[-2:], mode="bilinear", align_corners=False)
        return torch.sigmoid(maps).unflatten(0, (B, T))
