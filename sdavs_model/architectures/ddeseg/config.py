"""The config of a DDESeg model: variant, bank, sizes and ablation."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal, Self

from sdavs_model.config import AudioEncoderName, ModelConfig, require


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Which parts of DDESeg are present. The defaults are the full model."""

    derivation: bool = True
    """Dynamic derivation: k tokens by means of the bank. false: the sound's own embedding is the only token."""
    discriminative: bool = True
    """Discriminative feature learning: refine each token by the prototypes of its class."""
    elimination: bool = True
    """Dynamic elimination: score the tokens. false: each of them counts the same."""
    audio_in_train_mode: bool = False
    """The frozen HTS-AT is in train mode while the model trains, as the authors' code leaves it: SpecAugment, drop path
    and the batch's statistics are on."""

    def __post_init__(self) -> None:
        if not self.derivation and not self.discriminative:
            raise ValueError("ablation.discriminative: derivation=false removes it already; leave it at true")


@dataclass(frozen=True, kw_only=True)
class DDESegConfig(ModelConfig):
    """A complete DDESeg model. The defaults are the published sizes on pvt_v2_b5, whose layers are those of MiT-B5."""

    weight_keys = (
        *ModelConfig.weight_keys,
        "token_width",
        "audio_mlp_width",
        "head_width",
        "num_centres",
        "ablation",
    )

    architecture: Literal["ddeseg"] = "ddeseg"
    image_size: int = 224
    """Side of the square input in pixels; a multiple of 32. 224 as published."""
    audio_encoder: AudioEncoderName = "htsat"
    """As in other architectures; "htsat" as published."""
    variant: Literal["figure", "code"] = "figure"
    """The paper's figure and the authors' code differ. "figure": tokens survive stage by stage, each by its own score.
    "code": every stage gets all tokens and merges them into one by a softmax."""
    bank: str | None = None
    """File of audio semantics, as `jobs/prepare_data.py bank` writes it. Unset: a training makes it from the seconds
    of its training split in which one class sounds alone, and keeps it in the state folder."""
    bank_data_digest: str | None = None
    """Digest of the split that `bank` was made from. Unset: it must be the training split."""
    bank_classes: tuple[str, ...] = ()
    """Names of the bank's classes, in its order; filled in from `bank`."""
    num_prototypes: int = 5
    """n, prototypes of each class in the bank."""
    num_nearest: int = 5
    """k, nearest classes, and tokens, of a second of sound."""
    token_width: int | None = None
    """Channels of the tokens. Unset: those of the audio encoder, as published. Below these, sound and bank are
    standardised and projected first; our choice for small models."""
    audio_mlp_width: int | None = None
    """Hidden channels of the MLP that adapts tokens to a stage. Unset: four times those of the tokens, as published."""
    num_centres: int = 5
    """Number of learned centres that represent the picture for the tokens."""
    num_heads: int = 8
    """Most heads of an attention; a stage whose channels they do not divide has the most that do."""
    placement: Literal["before_blocks", "after_stages"] = "after_stages"
    """Where the sound meets the picture. "after_stages": on the maps of any backbone. "before_blocks": after the patch
    embedding of each stage and before its blocks, as published; only for pvt_v2 backbones, and never frozen."""
    first_stride: Literal[2, 4] = 4
    """Stride of the first patch embedding with placement="before_blocks". 2 as published: maps twice as large."""
    drop_path: float = 0.1
    """Stochastic depth with placement="before_blocks", rising from 0 to this in the last block."""
    head_width: int = 768
    """Channels of the segmentation head."""
    head_dropout: float = 0.1
    """Probability of dropping a channel before the head's classifier."""
    ablation: Ablation = field(default_factory=Ablation)
    """Which parts of the model are present."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_prototypes", "num_nearest", "num_centres", "num_heads", "head_width"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("token_width", "audio_mlp_width"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "unset, or 1 or more")
        for name in ("drop_path", "head_dropout"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "at least 0 and below 1")
        if self.placement == "before_blocks":
            if not self.backbone.startswith("pvt_v2_"):
                raise ValueError(
                    f"placement: 'before_blocks' needs a backbone of pvt_v2, not {self.backbone!r}; "
                    "allowed for others: after_stages"
                )
            if self.freeze_backbone:
                raise ValueError(
                    "freeze_backbone: with placement='before_blocks' the backbone depends on the sound"
                )
        elif self.first_stride != 4:
            raise ValueError("first_stride: has no effect with placement='after_stages'; leave it at 4")
        if self.ablation.audio_in_train_mode:
            if self.audio_encoder != "htsat":
                raise ValueError(
                    f"ablation.audio_in_train_mode: {self.audio_encoder} computes the same in train mode; "
                    "allowed with audio_encoder='htsat'"
                )
            if self.freeze_audio_encoder is False:
                raise ValueError(
                    "ablation.audio_in_train_mode: has no effect on an encoder that is trained; allowed with "
                    "freeze_audio_encoder=true"
                )
        if not self.ablation.derivation:
            for name in ("bank", "bank_data_digest", "token_width"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name}: has no effect with ablation.derivation=false")
        elif self.bank_classes and len(self.bank_classes) < self.num_nearest:
            raise ValueError(
                f"num_nearest: {self.num_nearest}, but the bank has {len(self.bank_classes)} classes; "
                f"allowed: 1 to {len(self.bank_classes)}"
            )

    @property
    def caches_features(self) -> bool:  # type: ignore[override]
        """Whether the encoders run before all other parts, so that their outputs can be cached."""
        return self.placement == "after_stages" and not self.ablation.audio_in_train_mode

    @property
    def needs_bank(self) -> bool:
        """Whether the model has a bank of audio semantics."""
        return self.ablation.derivation

    @property
    def heard_classes(self) -> tuple[str, ...]:
        """As in `ModelConfig`: the bank's, where there are scores of elimination."""
        return self.bank_classes if self.needs_bank and self.ablation.elimination else ()

    def without_weights(self) -> Self:
        """As `ModelConfig.without_weights`; the bank is among the model's weights."""
        return dataclasses.replace(super().without_weights(), bank=None)
