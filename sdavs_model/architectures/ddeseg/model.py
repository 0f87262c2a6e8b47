"""DDESeg on one page: derive k audio tokens from each second of sound, eliminate those that are not seen."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdavs_model.architectures.base import (
    Heard,
    Segmentation,
    SegmentationModel,
    with_padding,
    without_padding,
)
from sdavs_model.architectures.ddeseg.backbone import InterleavedBackbone
from sdavs_model.architectures.ddeseg.bank import load_bank
from sdavs_model.architectures.ddeseg.config import DDESegConfig
from sdavs_model.architectures.ddeseg.derivation import Derived, DynamicDerivation
from sdavs_model.architectures.ddeseg.elimination import DynamicElimination, Eliminated
from sdavs_model.architectures.ddeseg.head import SegFormerHead
from sdavs_model.encoders.features import Features
from sdavs_model.encoders.loading import Weights
from sdavs_model.encoders.visual import VisualEncoder


class DDESeg(SegmentationModel):
    """Dynamic derivation and elimination for audio-visual segmentation. Each second is segmented by itself.

    Args:
        config: the whole description; kept as `model.config`.

    Raises:
        ValueError: as `SegmentationModel`; the bank does not fit the config.
    """

    analyses = ("noise", "listening", "elimination")

    config: DDESegConfig
    bank: Tensor

    def __init__(self, *, config: DDESegConfig) -> None:
        super().__init__(config=config)
        embedding = self.audio_encoder.embedding
        width = config.token_width or embedding
        self.derivation = None
        if config.ablation.derivation:
            self.register_buffer("bank", load_bank(config, embedding=embedding))  # [classes, n, E]
            self.derivation = DynamicDerivation(
                embedding=embedding,
                width=width,
                num_classes=config.num_nearest,
                discriminative=config.ablation.discriminative,
            )
        channels = self.visual_encoder.channels
        hidden = config.audio_mlp_width or 4 * width
        self.audio_mlps = nn.ModuleList(_audio_mlp(width, hidden, c) for c in channels)
        self.eliminations = nn.ModuleList(
            DynamicElimination(
                channels=c,
                num_heads=_num_heads(c, config.num_heads),
                num_centres=config.num_centres,
                variant=config.variant,
                scores=config.ablation.elimination,
            )
            for c in channels
        )
        self.head = SegFormerHead(
            channels=channels,
            width=config.head_width,
            num_classes=config.num_classes,
            dropout=config.head_dropout,
        )

    def forward(
        self,
        frames: Tensor | None = None,
        log_mel: Tensor | None = None,
        present: Tensor | None = None,
        *,
        features: Features | None = None,
    ) -> Tensor:
        """As `SegmentationModel.forward`."""
        if features is not None:
            return self.forward_features(features)
        assert frames is not None
        assert log_mel is not None
        return self.segment(frames, log_mel, present).logits

    def forward_features(self, features: Features) -> Tensor:
        """Mask logits [B, T, K, H, W] from what `encode` returned."""
        return self.segment_features(features).logits

    def segment(self, frames: Tensor, log_mel: Tensor, present: Tensor | None = None) -> Segmentation:
        """As `forward`, with the scores of the elimination."""
        if self.config.placement == "after_stages":
            return self.segment_features(self.encode(frames, log_mel, present))
        assert isinstance(self.visual_encoder, InterleavedBackbone)
        sound = self.audio_encoder(without_padding(log_mel, present))
        stages = _Stages(self, self._tokens(sound))
        maps = self.visual_encoder(without_padding(frames, present), between=stages)
        return self._output(maps, stages, like=frames, present=present, size=frames.shape[-2:])

    def segment_features(self, features: Features) -> Segmentation:
        """As `forward_features`, with the scores of the elimination."""
        assert self.config.placement == "after_stages"
        features = self.augmented(features)
        present = features.present
        stages = _Stages(self, self._tokens(without_padding(features.embeddings, present)))
        maps = [stages(number, without_padding(m, present)) for number, m in enumerate(features.maps)]
        return self._output(maps, stages, like=features.embeddings, present=present, size=features.size)

    def trained_buffers(self) -> list[Tensor]:
        """As in `SegmentationModel`; the bank never changes."""
        bank = getattr(self, "bank", None)
        return [buffer for buffer in super().trained_buffers() if buffer is not bank]

    def data_buffers(self) -> set[str]:
        """As in `SegmentationModel`: the bank."""
        return {"bank"} if self.derivation is not None else set()

    def parts(self) -> dict[str, Sequence[nn.Module]]:
        """The parts of the paper, each over all stages."""
        return {
            "backbone": (self.visual_encoder,),
            "audio encoder": (self.audio_encoder,),
            "derivation": () if self.derivation is None else (self.derivation,),
            "audio MLPs": [*self.audio_mlps],
            "elimination": [*self.eliminations],
            "head": (self.head,),
        }

    def _build_visual_encoder(self, weights: Weights | None) -> VisualEncoder:
        config = self.config
        if config.placement == "after_stages":
            return super()._build_visual_encoder(weights)
        return InterleavedBackbone(
            config=config, weights=weights, first_stride=config.first_stride, drop_path=config.drop_path
        )

    @property
    def _audio_in_train_mode(self) -> bool:
        return self.config.ablation.audio_in_train_mode

    def _tokens(self, sound: Tensor) -> Derived:
        """sound: [N, E] -> its tokens; without derivation the sound itself."""
        if self.derivation is not None:
            return self.derivation(sound, self.bank)
        none = torch.zeros_like(sound[:, :1])
        return Derived(tokens=sound[:, None], classes=none.long(), distances=none)

    def _output(
        self,
        maps: list[Tensor],
        stages: "_Stages",
        *,
        like: Tensor,
        present: Tensor | None,
        size: tuple[int, ...],
    ) -> Segmentation:
        logits = F.interpolate(self.head(maps), size=tuple(size), mode="bilinear", align_corners=True)
        heard = None
        if self.config.heard_classes:
            classes = with_padding(stages.derived.classes + 1, like, present) - 1
            distances = with_padding(stages.derived.distances, like, present)
            heard = Heard(
                classes=classes, distances=distances, seen=with_padding(stages.seen(), like, present)
            )
        return Segmentation(logits=with_padding(logits, like, present), heard=heard)


class _Stages:
    """The eliminations of one forward pass, called stage after stage; survivors pass from one to the next."""

    def __init__(self, model: DDESeg, derived: Derived) -> None:
        self._model = model
        self.derived = derived
        self.results: list[Eliminated] = []

    def __call__(self, number: int, picture: Tensor) -> Tensor:
        """picture: [N, C, H, W] of stage `number`, from 0 -> the same with the sounds added."""
        tokens = self._model.audio_mlps[number](self.derived.tokens)  # [N, k, C]
        survival = self.results[-1].survival if self.results else torch.ones_like(tokens[..., 0])
        self.results.append(self._model.eliminations[number](picture, tokens, survival))
        return self.results[-1].picture

    def seen(self) -> Tensor:
        """[N, k], see `Heard.seen`."""
        if self._model.config.variant == "figure":
            return self.results[-1].survival
        scores = torch.stack([result.scores for result in self.results]).mean(0)
        return scores / scores.amax(-1, keepdim=True)


def _audio_mlp(width: int, hidden: int, channels: int) -> nn.Sequential:
    layers = nn.Linear(width, hidden), nn.Linear(hidden, channels)
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.GELU(), layers[1])


def _num_heads(channels: int, most: int) -> int:
    """The largest number of heads up to `most` that divides the channels."""
    return next(heads for heads in range(most, 0, -1) if channels % heads == 0)
