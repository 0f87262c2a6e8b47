"""The base class of all architectures: two encoders, the forward pass, and the members that the rest of the code
uses."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sdavs_model.encoders.audio import build_audio_encoder
from sdavs_model.encoders.features import Features
from sdavs_model.encoders.loading import Weights
from sdavs_model.encoders.visual import VisualEncoder
from sdavs_model.weights.read import configured_weights


@dataclass(frozen=True, kw_only=True)
class Heard:
    """The classes that a model heard in each second, and how much of each it sees. Low: heard, but not seen (off
    screen)."""

    classes: Tensor
    """[B, T, k], indices into the config's `heard_classes`, nearest first; -1 for padding."""
    distances: Tensor
    """[B, T, k], how far the sound is from each class, in the audio encoder's embedding."""
    seen: Tensor
    """[B, T, k], 0 to 1: how much of the class's sound the model finds in the picture."""


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """Masks, and what a model reports about them."""

    logits: Tensor
    """[B, T, K, H, W]; 0 for padding."""
    heard: Heard | None = None
    """None from models that do not report what they hear."""


class SegmentationModel(nn.Module, ABC):
    """A model that maps frames and sound to mask logits.

    Most architectures define `forward_features` and leave the rest as it is. One that mixes sound into the backbone
    overrides `forward` instead and sets `caches_features = False` in its config.

    Args:
        config: the whole description; kept as `model.config`.

    Raises:
        ValueError: the backbone has no four stages, or a weights file is missing or does not fit.
    """

    analyses: ClassVar[tuple[str, ...]] = ("noise", "listening")
    """Analyses of `jobs/analyse.py` that apply. These two need nothing but the forward pass."""

    def __init__(self, *, config: Any) -> None:
        super().__init__()
        self.config = config
        backbone_weights, audio_weights = configured_weights(config)
        self.visual_encoder = self._build_visual_encoder(backbone_weights)
        self.audio_encoder = build_audio_encoder(config, audio_weights)
        if config.freeze_backbone:
            self.visual_encoder.freeze()
        if config.audio_encoder_is_frozen:
            self.audio_encoder.freeze(in_train_mode=self._audio_in_train_mode)

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
            features: the output of `encode`, in place of frames and log_mel.

        Returns:
            Mask logits [B, T, K, H, W]; 0 for padding.
        """
        if features is None:
            assert frames is not None
            assert log_mel is not None
            features = self.encode(frames, log_mel, present)
        return self.forward_features(features)

    def segment(self, frames: Tensor, log_mel: Tensor, present: Tensor | None = None) -> Segmentation:
        """As `forward`, with everything that the model reports in addition to the logits."""
        return Segmentation(logits=self(frames, log_mel, present))

    def encode(self, frames: Tensor, log_mel: Tensor, present: Tensor | None = None) -> Features:
        """Run both encoders; arguments as for `forward`."""
        return Features(
            maps=self.encode_frames(frames, present),
            embeddings=self.encode_sound(log_mel, present),
            size=(frames.shape[-2], frames.shape[-1]),
            present=present,
        )

    def encode_frames(self, frames: Tensor, present: Tensor | None = None) -> list[Tensor]:
        """Run the visual encoder: the maps of `Features`."""
        maps = self.visual_encoder(without_padding(frames, present))
        return [with_padding(m, frames, present) for m in maps]

    def encode_sound(self, log_mel: Tensor, present: Tensor | None = None) -> Tensor:
        """Run the audio encoder: the embeddings of `Features`."""
        return with_padding(self.audio_encoder(without_padding(log_mel, present)), log_mel, present)

    def checkpoint_activations(self) -> None:
        """Trade time for memory in training: of each block of the backbone only the input is kept, and the backward
        pass computes the rest again."""
        backbone = self.visual_encoder.backbone
        # timm's stages checkpoint block by block. Where none can, its feature model checkpoints stage by stage.
        stages = [m for m in backbone.modules() if m is not backbone and hasattr(m, "grad_checkpointing")]
        for stage in stages or [backbone]:
            stage.grad_checkpointing = True

    @property
    def _audio_in_train_mode(self) -> bool:
        """Whether a frozen audio encoder is nevertheless in train mode while the model trains; for ablations."""
        return False

    @abstractmethod
    def forward_features(self, features: Features) -> Tensor:
        """Mask logits [B, T, K, H, W] from what `encode` returned; 0 for padding."""

    def _build_visual_encoder(self, weights: Weights | None) -> VisualEncoder:
        """The visual encoder of `self.config`; for architectures that run a backbone in their own way."""
        return VisualEncoder(config=self.config, weights=weights)

    def augmented(self, features: Features) -> Features:
        """The features, augmented by `feature_noise` and `feature_dropout` of the config while training."""
        return features.map(functools.partial(self._augmented, present=features.present))

    def trained_buffers(self) -> list[Tensor]:
        """The buffers that training may change: all but those of frozen encoders."""
        encoders = (self.visual_encoder, self.audio_encoder)
        constant = {id(buffer) for e in encoders if e.is_constant for buffer in e.buffers()}
        return [buffer for buffer in self.buffers() if id(buffer) not in constant]

    def data_buffers(self) -> set[str]:
        """Names of buffers that are made from a training's data; one that starts from other weights keeps its own."""
        return set()

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The parameters that `optimizer.backbone_lr_factor` applies to."""
        return list(self.visual_encoder.parameters())

    def parts(self) -> dict[str, Sequence[nn.Module]]:
        """Name of each part -> its modules, in the order of the forward pass; their costs are reported one by one."""
        found: dict[str, Sequence[nn.Module]] = {
            "backbone": (self.visual_encoder,),
            "audio encoder": (self.audio_encoder,),
        }
        for name, module in self.named_children():
            if name not in ("visual_encoder", "audio_encoder"):
                found[name] = tuple(module) if isinstance(module, nn.ModuleList) else (module,)
        return found

    def _augmented(self, encoded: Tensor, *, present: Tensor | None) -> Tensor:
        """An encoder's output [B, T, C, ...]; while training with noise relative to each channel's spread, and channels
        dropped, as configured."""
        if not self.training:
            return encoded
        noise, dropout = self.config.feature_noise, self.config.feature_dropout
        if noise:
            seconds = without_padding(encoded.detach(), present)  # [N, C, ...]
            others = [dim for dim in range(seconds.ndim) if dim != 1]
            spread = seconds.std(dim=others, keepdim=True, correction=0)
            encoded = encoded + noise * spread * torch.randn_like(encoded)
        if dropout:
            kept = encoded.new_empty(*encoded.shape[:3], *[1] * (encoded.ndim - 3))
            encoded = encoded * kept.bernoulli_(1 - dropout) / (1 - dropout)
        return encoded


def without_padding(x: Tensor, present: Tensor | None) -> Tensor:
    """The seconds that are present: [B, T, ...] -> [N, ...]; all B * T of them without padding."""
    flat = x.flatten(0, 1)
    return flat if present is None else flat[present.flatten()]


def with_padding(x: Tensor, like: Tensor, present: Tensor | None) -> Tensor:
    """The inverse of `without_padding`, [N, ...] -> [B, T, ...] with B and T as in `like`; padding is 0."""
    B, T = like.shape[:2]
    if present is None:
        return x.unflatten(0, (B, T))
    padded = x.new_zeros(B * T, *x.shape[1:])
    padded[present.flatten()] = x
    return padded.unflatten(0, (B, T))
