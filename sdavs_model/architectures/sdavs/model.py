"""SDAVS on one page: encode, refine and fuse four levels, decode (paper III, figure 2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sdavs_model.architectures.base import SegmentationModel, with_padding, without_padding
from sdavs_model.architectures.sdavs.config import SDAVSConfig
from sdavs_model.architectures.sdavs.damf import DAMF
from sdavs_model.architectures.sdavs.decoder import Decoder, Fuse, GroupNorm, Pointwise
from sdavs_model.architectures.sdavs.snrp import SNRP, SNRPOutput
from sdavs_model.encoders.audio_attention import AudioAttention
from sdavs_model.encoders.features import Features

# Spatial stride of STC by level: the token grids of the two largest levels are halved, the others are small.
STC_STRIDES = (2, 2, 1, 1)
# Spatial stride of keys and values by level (equation 5's "reduce redundancy"): on 24 x 24 positions and fewer of
# the two smallest levels there is none to reduce.
KEY_STRIDES = (2, 2, 1, 1)


class SDAVS(SegmentationModel):
    """Selective noise suppression and discriminative mutual interaction for audio-visual segmentation.

    Args:
        config: the whole description; kept as `model.config`.

    Attributes:
        recomputes: see `checkpoint_activations`.
    """

    analyses = ("noise", "consistency", "maps", "attention", "response", "listening")

    def __init__(self, *, config: SDAVSConfig) -> None:
        super().__init__(config=config)
        self.recomputes = False
        self.audio_attention = AudioAttention(
            embedding=self.audio_encoder.embedding, width=config.width, num_heads=config.num_heads
        )
        self.levels = nn.ModuleList(
            Level(in_channels=channels, stride=stride, key_stride=key_stride, config=config)
            for channels, stride, key_stride in zip(
                self.visual_encoder.channels, STC_STRIDES, KEY_STRIDES, strict=True
            )
        )
        self.decoder = Decoder(width=config.width, num_classes=config.num_classes)

    def forward(
        self,
        frames: Tensor | None = None,
        log_mel: Tensor | None = None,
        present: Tensor | None = None,
        *,
        features: Features | None = None,
        sound: Tensor | None = None,
    ) -> Tensor:
        """See `SegmentationModel.forward`.

        Args:
            sound: the output of `listen`, in place of `log_mel` or of the features' embeddings.
        """
        if sound is None:
            return super().forward(frames, log_mel, present, features=features)
        if features is not None:
            return self._segment(features.maps, sound, size=features.size, present=features.present)
        assert frames is not None
        size = (frames.shape[-2], frames.shape[-1])
        return self._segment(self.encode_frames(frames, present), sound, size=size, present=present)

    def forward_features(self, features: Features) -> Tensor:
        """Mask logits [B, T, K, H, W] from what `encode` returned."""
        sound = self.listen(embeddings=features.embeddings, present=features.present)
        return self._segment(features.maps, sound, size=features.size, present=features.present)

    def listen(
        self,
        log_mel: Tensor | None = None,
        present: Tensor | None = None,
        *,
        embeddings: Tensor | None = None,
    ) -> Tensor:
        """The sound F_a [B, T, C], for `forward`: the only part of the model in which clips of a batch influence each
        other, by the batch's statistics, apart from batch normalisations inside a backbone.

        Args:
            log_mel, present: as for `forward`.
            embeddings: in place of `log_mel`, the audio encoder's output.
        """
        if embeddings is None:
            assert log_mel is not None
            embeddings = self.encode_sound(log_mel, present)
        return self.audio_attention(self._augmented(embeddings, present=present), present)

    def checkpoint_activations(self) -> None:
        """As `SegmentationModel.checkpoint_activations`, for the levels and the decoder, too."""
        super().checkpoint_activations()
        self.recomputes = True

    def _segment(
        self, maps: list[Tensor], sound: Tensor, *, size: tuple[int, int], present: Tensor | None
    ) -> Tensor:
        """Mask logits [B, T, K, *size] from F_v [B, T, C_i, H_i, W_i] and F_a [B, T, C]."""
        maps = [self._augmented(m, present=present) for m in maps]
        fused = [
            without_padding(self._run(level, visual, sound, present).fused, present)
            for level, visual in zip(self.levels, maps, strict=True)
        ]
        logits = self._run(self.decoder, fused)  # [BT, K, H / 4, W / 4]
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return with_padding(logits, sound, present)

    def _run(self, part: nn.Module, *inputs: Any) -> Any:
        if self.recomputes and torch.is_grad_enabled():
            return checkpoint(part, *inputs, use_reentrant=False)
        return part(*inputs)

    def parts(self) -> dict[str, Sequence[nn.Module]]:
        """The modules of the paper, each over all levels."""
        levels = [level for level in self.levels if isinstance(level, Level)]
        return {
            "backbone": (self.visual_encoder,),
            "audio encoder": (self.audio_encoder,),
            "audio attention": (self.audio_attention,),
            "projections": [part for level in levels for part in (level.lateral, level.adapt_audio)],
            "SNRP": [level.snrp for level in levels if level.snrp is not None],
            "DAMF": [level.damf for level in levels if level.damf is not None],
            "decoder": [*(level.fuse for level in levels), self.decoder],
        }


@dataclass
class LevelOutput:
    """One level's result and the steps on the way, which the analyses look at."""

    fused: Tensor
    """The input of the decoder stage: [B, T, C, H, W]."""
    video: Tensor
    """F_v at the common width, before SNRP: [B, T, C, H, W]."""
    audio: Tensor
    """F_a of this level: [B, T, C]."""
    snrp: SNRPOutput | None
    """What the selectors did, or None without SNRP."""
    fused_video: Tensor
    """F'_{a->v}: [B, T, C, h, w], on STC's grid."""
    fused_audio: Tensor
    """F'_{v->a}: [B, T, C, H, W]."""


class Level(nn.Module):
    """One of the four levels: lateral projection, SNRP, DAMF, Fuse.

    Args:
        in_channels: channels of the backbone's stage.
        stride: STC's spatial stride.
        key_stride: stride of the attentions' keys and values on that grid.
        config: widths, heads and ablation.
    """

    def __init__(self, *, in_channels: int, stride: int, key_stride: int, config: SDAVSConfig) -> None:
        super().__init__()
        ablation, sizes = config.ablation, {"width": config.width, "num_heads": config.num_heads}
        self.lateral = nn.Sequential(GroupNorm(in_channels), Pointwise(in_channels, config.width))
        self.adapt_audio = nn.Sequential(nn.Linear(config.width, config.width), nn.LayerNorm(config.width))
        self.snrp = SNRP(ablation=ablation, **sizes) if ablation.snrp != "none" else None
        self.snrp_after_fusion = ablation.snrp == "after"
        self.damf = None
        if ablation.damf:
            self.damf = DAMF(stride=stride, key_stride=key_stride, ablation=ablation, **sizes)
        self.fuse = Fuse(width=config.width)

    def forward(self, visual: Tensor, audio: Tensor, present: Tensor | None = None) -> LevelOutput:
        """visual: [B, T, C_i, H, W], audio F_a: [B, T, C], present: [B, T] bool, None if no clip is padded."""
        shape = visual.shape[:2]
        # Channels-last in memory: attention, normalisation and convolution then share one layout.
        visual = visual.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        video = self.lateral(visual).unflatten(0, shape)
        audio = self.adapt_audio(audio)
        if present is not None:
            # STC's convolution over time then sees zeros behind a clip's end, as it does without padding.
            video, audio = video * present[:, :, None, None, None], audio * present[:, :, None]
        selected = None
        refined = video
        if self.snrp is not None and not self.snrp_after_fusion:
            selected = self.snrp(video, audio, present)
            refined = selected.video
        if self.damf is not None:
            fused_video, fused_audio = self.damf(refined, audio)
        else:
            # Without DAMF the sound still reaches the decoder: spread evenly over the picture.
            fused_video, fused_audio = audio[..., None, None], refined
        fused = self.fuse(fused_video.flatten(0, 1), fused_audio.flatten(0, 1)).unflatten(0, shape)
        if self.snrp is not None and self.snrp_after_fusion:
            selected = self.snrp(fused, audio, present)
            fused = selected.video
        return LevelOutput(fused, video, audio, selected, fused_video, fused_audio)
