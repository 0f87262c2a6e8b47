"""SDAVS on one page: encode, refine and fuse four levels, decode (paper III, figure 2)."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdavs_model.architectures.sdavs.damf import DAMF
from sdavs_model.architectures.sdavs.decoder import Decoder, Fuse, GroupNorm, Pointwise
from sdavs_model.architectures.sdavs.snrp import SNRP, SNRPOutput
from sdavs_model.config import SDAVSConfig
from sdavs_model.encoders.audio import build_audio_encoder
from sdavs_model.encoders.audio_attention import AudioAttention
from sdavs_model.encoders.features import Features
from sdavs_model.encoders.visual import VisualEncoder
from sdavs_model.weights.read import configured_weights

# Spatial stride of STC by level: the token grids of the two largest levels are halved, the others are small.
STC_STRIDES = (2, 2, 1, 1)
# Spatial stride of keys and values by level (equation 5's "reduce redundancy"): on 24 x 24 positions and fewer of
# the two smallest levels there is none to reduce.
KEY_STRIDES = (2, 2, 1, 1)


def build_model(config: SDAVSConfig) -> SDAVS:
    """Build the model that `config` describes, with the weights it names.

    Raises:
        ValueError: the backbone has no four stages, or a weights file is missing or does not fit.
    """
    return SDAVS(config=config)


class SDAVS(nn.Module):
    """Selective noise suppression and discriminative mutual interaction for audio-visual segmentation.

    Args:
        config: the whole description; kept as `model.config`.
    """

    def __init__(self, *, config: SDAVSConfig) -> None:
        super().__init__()
        self.config = config
        backbone_weights, audio_weights = configured_weights(config)
        self.visual_encoder = VisualEncoder(config=config, weights=backbone_weights)
        self.audio_encoder = build_audio_encoder(config, audio_weights)
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
        if config.freeze_backbone:
            self.visual_encoder.freeze()
        if config.audio_encoder_is_frozen:
            self.audio_encoder.freeze()

    def trained_buffers(self) -> list[Tensor]:
        """The buffers that training may change: all but those of frozen encoders."""
        encoders = (self.visual_encoder, self.audio_encoder)
        frozen = {id(buffer) for e in encoders if e.frozen for buffer in e.buffers()}
        return [buffer for buffer in self.buffers() if id(buffer) not in frozen]

    def forward(
        self,
        frames: Tensor | None = None,
        log_mel: Tensor | None = None,
        present: Tensor | None = None,
        *,
        features: Features | None = None,
    ) -> Tensor:
        """Segment what sounds.

        Args:
            frames: [B, T, 3, H, W], normalised by `Preprocessor`; H and W as in the config.
            log_mel: [B, T, 1, 96, 64], one example a frame.
            present: [B, T] bool, False for the padding at the end of shorter clips; None if no clip is padded. A
                padded clip gives the logits that it gives alone, and its padding has no influence on the batch.
            features: in place of these, what `encode` made of them.

        Returns:
            Mask logits [B, T, K, H, W]; 0 for padding.
        """
        if features is None:
            assert frames is not None
            assert log_mel is not None
            features = self.encode(frames, log_mel, present)
        return self.forward_features(features)

    def encode(self, frames: Tensor, log_mel: Tensor, present: Tensor | None = None) -> Features:
        """What the two encoders make of a clip; arguments as for `forward`."""
        return Features(
            maps=[
                _with_padding(m, frames, present)
                for m in self.visual_encoder(_without_padding(frames, present))
            ],
            embeddings=_with_padding(self.audio_encoder(_without_padding(log_mel, present)), frames, present),
            size=(frames.shape[-2], frames.shape[-1]),
            present=present,
        )

    def forward_features(self, features: Features) -> Tensor:
        """Mask logits [B, T, K, H, W] from what `encode` returned."""
        present = features.present
        if self.training and (self.config.feature_noise or self.config.feature_dropout):
            features = features.map(functools.partial(self._varied, present=present))
        audio = self.audio_attention(features.embeddings, present)  # F_a: [B, T, C]
        fused = [
            _without_padding(level(visual, audio, present).fused, present)
            for level, visual in zip(self.levels, features.maps, strict=True)
        ]
        logits = self.decoder(fused)  # [BT, K, H / 4, W / 4]
        logits = F.interpolate(logits, size=features.size, mode="bilinear", align_corners=False)
        return _with_padding(logits, features.embeddings, present)

    def _varied(self, encoded: Tensor, *, present: Tensor | None) -> Tensor:
        """An encoder's output [B, T, C, ...] with noise relative to each channel's spread, and channels dropped."""
        noise, dropout = self.config.feature_noise, self.config.feature_dropout
        if noise:
            seconds = _without_padding(encoded.detach(), present)  # [N, C, ...]
            others = [dim for dim in range(seconds.ndim) if dim != 1]
            spread = seconds.std(dim=others, keepdim=True, correction=0)
            encoded = encoded + noise * spread * torch.randn_like(encoded)
        if dropout:
            kept = encoded.new_empty(*encoded.shape[:3], *[1] * (encoded.ndim - 3))
            encoded = encoded * kept.bernoulli_(1 - dropout) / (1 - dropout)
        return encoded


def _without_padding(x: Tensor, present: Tensor | None) -> Tensor:
    """The seconds that are present: [B, T, ...] -> [N, ...]; all B * T of them without padding."""
    flat = x.flatten(0, 1)
    return flat if present is None else flat[present.flatten()]


def _with_padding(x: Tensor, like: Tensor, present: Tensor | None) -> Tensor:
    """The inverse of `_without_padding`, [N, ...] -> [B, T, ...] with B and T as in `like`; padding is 0."""
    B, T = like.shape[:2]
    if present is None:
        return x.unflatten(0, (B, T))
    padded = x.new_zeros(B * T, *x.shape[1:])
    padded[present.flatten()] = x
    return padded.unflatten(0, (B, T))


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
