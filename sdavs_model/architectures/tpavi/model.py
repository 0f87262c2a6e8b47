"""TPAVI on one page: atrous convolutions, temporal pixel-wise audio-visual interaction, a top-down decoder.

Zhou et al., "Audio-Visual Segmentation", ECCV 2022, sections 4.1 to 4.3. Layer sizes follow from the published
parameter count (101.32 M with PVT-v2-b5, without VGGish), which this model has. Group normalisation takes the place
of batch normalisation, our choice: a clip's masks then do not depend on the rest of the batch.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdavs_model.architectures.base import SegmentationModel, with_padding, without_padding
from sdavs_model.architectures.tpavi.config import TPAVIConfig
from sdavs_model.encoders.features import Features

DILATIONS = (3, 6, 12, 18)


class TPAVI(SegmentationModel):
    """Temporal pixel-wise audio-visual interaction at every level, and a decoder that joins the levels.

    Args:
        config: the whole description; kept as `model.config`.
    """

    def __init__(self, *, config: TPAVIConfig) -> None:
        super().__init__(config=config)
        width, channels = config.width, self.visual_encoder.channels
        self.atrous = nn.ModuleList(Atrous(in_channels=each, width=width) for each in channels)
        self.fusion = nn.ModuleList(
            Interaction(width=width, embedding=self.audio_encoder.embedding)
            for _ in channels
            if config.fusion
        )
        self.decoder = nn.ModuleList(Merge(width=width) for _ in channels)
        self.head = Head(width=width, num_classes=config.num_classes)

    def forward_features(self, features: Features) -> Tensor:
        """Mask logits [B, T, K, H, W] from what `encode` returned."""
        features = self.augmented(features)
        present, like = features.present, features.embeddings
        decoded: Tensor | None = None
        for level in reversed(range(len(features.maps))):
            video = self.atrous[level](without_padding(features.maps[level], present))  # [N, C, H_i, W_i]
            if len(self.fusion):
                mixed = self.fusion[level](with_padding(video, like, present), features.embeddings, present)
                video = without_padding(mixed, present)
            decoded = self.decoder[level](video, decoded)
        logits = self.head(decoded, features.size)
        return with_padding(logits, like, present)


class Atrous(nn.Module):
    """A sum of four dilated 3x3 convolutions: each level at the common width, with a wide field of view.

    Args:
        in_channels: channels C_i of the backbone's stage.
        width: channels C of the output.
    """

    def __init__(self, *, in_channels: int, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(in_channels, width, 3, padding=dilation, dilation=dilation) for dilation in DILATIONS
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C_i, H, W] -> [N, C, H, W]."""
        return torch.stack([convolution(x) for convolution in self.convolutions]).sum(0)


class Interaction(nn.Module):
    """Every pixel of a clip attends to the sound of all its seconds: Z = V + mu(theta(V) phi(A)^T g(V) / N).

    A non-local block without softmax. A holds the same embedding at all pixels of a second, so that phi(A)^T g(V) is
    one [C/2, C/2] matrix a clip, a sum over seconds; computed first, it makes the block linear in the number of
    pixels, with the same result.

    Args:
        width: channels C of the maps.
        embedding: channels E of the audio encoder.
    """

    def __init__(self, *, width: int, embedding: int) -> None:
        super().__init__()
        inner = width // 2
        self.align = nn.Linear(embedding, width)
        self.theta = nn.Conv2d(width, inner, 1)
        self.phi = nn.Linear(width, inner)
        self.g = nn.Conv2d(width, inner, 1)
        self.mu = nn.Conv2d(inner, width, 1)
        self.mu_norm = nn.GroupNorm(1, width)
        # As in non-local networks, the block starts as the identity.
        nn.init.zeros_(self.mu_norm.weight)
        self.norm = nn.LayerNorm(width)

    def forward(self, video: Tensor, embeddings: Tensor, present: Tensor | None = None) -> Tensor:
        """video V: [B, T, C, H, W], embeddings: [B, T, E], present: [B, T] bool -> Z: [B, T, C, H, W]."""
        B, T, _, H, W = video.shape
        flat = video.flatten(0, 1)
        audio = self.phi(self.align(embeddings))  # phi(A): [B, T, C/2]
        values = self.g(flat).flatten(2).sum(2).view(B, T, -1)  # g(V), summed over the pixels of each second
        seconds: Tensor | int = T
        if present is not None:
            audio = audio * present[..., None]
            seconds = present.sum(1)[:, None, None]
        affinity = audio.transpose(1, 2) @ values / (seconds * H * W)  # [B, C/2, C/2]
        queries = self.theta(flat).unflatten(0, (B, T))
        mixed = torch.einsum("btchw,bcd->btdhw", queries, affinity)
        out = flat + self.mu_norm(self.mu(mixed.flatten(0, 1)))
        out = self.norm(out.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return out.unflatten(0, (B, T))


class Merge(nn.Module):
    """One step of the decoder: joins a level with the levels above it and doubles the resolution.

    Args:
        width: channels C.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.before = Residual(width=width)
        self.after = Residual(width=width)

    def forward(self, level: Tensor, deeper: Tensor | None) -> Tensor:
        """level: [N, C, H, W], deeper: the same shape, or None at the deepest level -> [N, C, 2H, 2W]."""
        x = self.before(level)
        if deeper is not None:
            x = x + deeper
        return F.interpolate(self.after(x), scale_factor=2, mode="bilinear", align_corners=True)


class Residual(nn.Module):
    """Two 3x3 convolutions around the identity.

    Args:
        width: channels C.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, H, W] -> [N, C, H, W]."""
        return x + self.second(F.relu(self.first(F.relu(x))))


class Head(nn.Module):
    """From the decoder's map of stride 2 to mask logits.

    Args:
        width: channels C of the decoder.
        num_classes: K channels of the mask.
    """

    def __init__(self, *, width: int, num_classes: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, width // 2, 3, padding=1)
        self.refine = nn.Conv2d(width // 2, width // 8, 3, padding=1)
        self.classify = nn.Conv2d(width // 8, num_classes, 1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """x: [N, C, H / 2, W / 2], size: (H, W) -> logits [N, K, H, W]."""
        x = F.interpolate(self.reduce(x), size=size, mode="bilinear", align_corners=False)
        return self.classify(F.relu(self.refine(x)))
