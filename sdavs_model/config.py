"""The base of all model configs and the preprocessing config, as plain dataclasses with one docstring per field.

Each architecture adds its own fields in `architectures/NAME/config.py`. The dataclasses need nothing but the standard
library, so that the platform can nest them in its own config tree and a bare GPU box can read them from a model
artifact.
"""

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args, get_type_hints

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Backbones that need no look-up in timm (which takes seconds to import) to be known as good.
KNOWN_BACKBONES = (
    "pvt_v2_b0",
    "pvt_v2_b1",
    "pvt_v2_b2",
    "pvt_v2_b3",
    "pvt_v2_b4",
    "pvt_v2_b5",
    "swin_tiny_patch4_window7_224",
    "swin_small_patch4_window7_224",
    "swin_base_patch4_window7_224",
    "swin_base_patch4_window12_384",
)

AudioWindow = Literal["second", "official"]
AudioEncoderName = Literal["vggish", "yamnet", "htsat"]
AudioExample = Literal["vggish", "htsat"]

# What is added to the mel magnitudes before their logarithm; HTS-AT's examples have none.
LOG_OFFSETS: dict[str, float] = {"vggish": 0.01, "yamnet": 0.001}

# [1, frames, mel bins] of each kind of log-mel example.
LOG_MEL_SHAPES: dict[AudioExample, tuple[int, int, int]] = {"vggish": (1, 96, 64), "htsat": (1, 87, 64)}

SILENT_DECIBELS = -100.0

# Keys of earlier versions, which their configs and artifacts still use.
RENAMED_KEYS = {"vggish_weights": "audio_weights"}


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """How raw frames and sound become tensors. It travels with the model, so training and serving agree."""

    image_size: int = 384
    """Side of the square model input in pixels; frames are squashed to it (AVSBench's test protocol)."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Per-channel mean (RGB, 0 to 1) that is subtracted from the frames."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Per-channel standard deviation (RGB) by which the frames are divided."""
    sample_rate: int = 16_000
    """Samples per second of the mono sound; VGGish's and YAMNet's constant."""
    log_offset: float = LOG_OFFSETS["vggish"]
    """What is added to the mel magnitudes before their logarithm: 0.01 for VGGish, 0.001 for YAMNet."""
    example: AudioExample = "vggish"
    """The log-mel example of a second. "vggish": 96 frames of 64 bins at 16 kHz, also YAMNet's. "htsat": 87 frames at
    22,050 Hz, in decibels."""
    audio_window: AudioWindow = "second"
    """"second": example i is the first 0.96 s of second i, strictly aligned with frame i (paper III-A).
    "official": AVSBench's own hop of 0.96 s, which drifts by 0.04 s a frame against the pictures."""

    def __post_init__(self) -> None:
        check_literals(self)
        require(self.log_offset > 0, "log_offset", self.log_offset, "above 0")
        if self.example == "htsat" and self.audio_window != "second":
            raise ValueError("audio_window: HTS-AT takes whole seconds; allowed: second")

    @property
    def log_mel_shape(self) -> tuple[int, int, int]:
        """[1, frames, mel bins] of the log-mel example of a second."""
        return LOG_MEL_SHAPES[self.example]

    @property
    def silence(self) -> float:
        """The value of a log-mel example of digital silence."""
        return SILENT_DECIBELS if self.example == "htsat" else math.log(self.log_offset)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The fields that every architecture has: encoders, input, classes. A complete model is a subclass of it.

    A subclass sets `architecture: Literal["NAME"] = "NAME"`, adds the fields of its own parts, and checks them in
    `__post_init__` after `super().__post_init__()`.
    """

    caches_features: ClassVar[bool] = True
    """Whether the encoders run before all other parts, so that their outputs can be cached (data.cache_features)."""

    weight_keys: ClassVar[tuple[str, ...]] = (
        "architecture",
        "backbone",
        "image_size",
        "audio_encoder",
        "vggish_width",
    )
    """The keys that determine names and shapes of the weights, in addition to `num_classes`. A subclass adds its
    own."""

    architecture: str
    """Name in `sdavs_model.architectures.ARCHITECTURES`; determines which other keys this section has."""
    backbone: str = "pvt_v2_b5"
    """Any timm name that offers `features_only` with stages of stride 4, 8, 16 and 32."""
    image_size: int = 384
    """Side of the square input in pixels; a multiple of 32."""
    num_frames: int = 5
    """Frames, and seconds of sound, in a training clip; the model itself takes any number."""
    num_classes: int = 1
    """1: a binary mask of the sounding objects (S4, MS3). K > 1: K semantic classes with background first (AVSS)."""
    pretrained: bool = False
    """Load the backbone's ImageNet weights through timm (needs its hub or a filled cache)."""
    backbone_weights: str | None = None
    """Pretrained backbone: a name of `jobs/prepare_weights.py list`, or a local file (.safetensors, .pth, .pt).
    Overrides `pretrained`."""
    freeze_backbone: bool = False
    """Never train the backbone; it then always runs in eval mode."""
    audio_encoder: AudioEncoderName = "vggish"
    """"vggish": the paper's, 128 channels, 72 M weights. "yamnet": a MobileNet, 1024 channels, 3.2 M weights.
    "htsat": a Swin transformer, 768 channels, 27.5 M weights, DDESeg's."""
    audio_weights: str | None = None
    """Pretrained audio encoder: a name of `jobs/prepare_weights.py list`, or a local file such as torchvggish's
    `vggish-10086976.pth`. Unset: it is trained from scratch."""
    freeze_audio_encoder: bool | None = None
    """Never train the audio encoder; it then always runs in eval mode. Unset: frozen, as in the paper, if
    `audio_weights` are given."""
    from_scratch: bool = False
    """Start from random weights and ignore `pretrained`, `backbone_weights` and `audio_weights`."""
    feature_noise: float = 0.0
    """Gaussian noise on the encoders' outputs while training, relative to each channel's standard deviation: varies
    clips whose encoders are frozen, at no cost. Our choice; the paper has none."""
    feature_dropout: float = 0.0
    """Probability of dropping a channel of the encoders' outputs while training."""
    vggish_width: float = 1.0
    """Channels of VGGish relative to the published network. Below 1, public weights do not fit; our choice for
    machines without a GPU."""
    audio_window: AudioWindow = "second"
    """See `PreprocessConfig.audio_window`."""

    def __post_init__(self) -> None:
        check_literals(self)
        require(
            self.image_size >= 32 and self.image_size % 32 == 0,
            "image_size",
            self.image_size,
            "a multiple of 32",
        )
        require(self.num_frames >= 1, "num_frames", self.num_frames, "1 or more")
        require(self.num_classes >= 1, "num_classes", self.num_classes, "1 or more")
        require(0 < self.vggish_width <= 1, "vggish_width", self.vggish_width, "above 0 and at most 1")
        require(self.feature_noise >= 0, "feature_noise", self.feature_noise, "0 or more")
        require(
            0 <= self.feature_dropout < 1, "feature_dropout", self.feature_dropout, "at least 0 and below 1"
        )
        if self.vggish_width != 1.0 and self.audio_encoder != "vggish":
            raise ValueError(f"vggish_width: has no effect with audio_encoder={self.audio_encoder!r}")
        if self.vggish_width != 1.0 and self.audio_weights is not None:
            raise ValueError("audio_weights: public weights fit only vggish_width=1.0")
        for name in ("freeze_backbone", "freeze_audio_encoder"):
            if self.from_scratch and getattr(self, name):
                raise ValueError(
                    f"from_scratch: an encoder that never trains would stay random; set {name}=false"
                )
        _check_backbone_name(self.backbone)

    @property
    def preprocess(self) -> PreprocessConfig:
        """The preprocessing that this model was, or will be, trained with."""
        mean, std = _normalization(self.backbone)
        return PreprocessConfig(
            image_size=self.image_size,
            mean=mean,
            std=std,
            log_offset=LOG_OFFSETS.get(self.audio_encoder, LOG_OFFSETS["vggish"]),
            example="htsat" if self.audio_encoder == "htsat" else "vggish",
            audio_window=self.audio_window,
        )

    @property
    def heard_classes(self) -> tuple[str, ...]:
        """Names of the classes that the model reports to hear (`SegmentationModel.segment`); empty if it reports
        none."""
        return ()

    @property
    def audio_encoder_is_frozen(self) -> bool:
        """`freeze_audio_encoder`, with its default resolved."""
        if self.freeze_audio_encoder is None:
            return self.audio_weights is not None and not self.from_scratch
        return self.freeze_audio_encoder

    def without_weights(self) -> Self:
        """The same model without the sources of its initial weights, which mean nothing on another machine."""
        return dataclasses.replace(
            self,
            pretrained=False,
            backbone_weights=None,
            audio_weights=None,
            freeze_audio_encoder=self.audio_encoder_is_frozen or self.freeze_audio_encoder,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, nested as declared."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; for a config of any architecture see `architectures.config_from_dict`.

        Raises:
            ValueError: an unknown key (named with the nearest known one) or a bad value.
        """
        values = with_new_keys(values)
        check_keys(cls, values)
        kinds: dict[str, Any] = get_type_hints(cls)
        for name, kind in kinds.items():
            value = values.get(name)
            if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, dict):
                check_keys(kind, value, prefix=f"{name}.")
                values[name] = kind(**value)
            elif isinstance(value, list):  # JSON has no tuples
                values[name] = tuple(value)
        return cls(**values)


def with_new_keys(values: dict[str, Any]) -> dict[str, Any]:
    """`values` of a model config with the keys of earlier versions renamed to today's."""
    return {RENAMED_KEYS.get(key, key): value for key, value in values.items()}


def check_keys(cls: type, values: dict[str, Any], prefix: str = "") -> None:
    """Refuse keys that `cls` does not declare.

    Raises:
        ValueError: names the dotted key, the nearest known key and all allowed keys.
    """
    known = [f.name for f in dataclasses.fields(cls)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {prefix + near[0]!r}? " if near else ""
            raise ValueError(f"{prefix}{key}: unknown key; {hint}allowed: {', '.join(known)}")


def require(holds: bool, name: str, value: Any, allowed: str) -> None:
    """Refuse the value of a field with a ValueError that lists what is allowed."""
    if not holds:
        raise ValueError(f"{name}: {value!r} is not allowed; allowed: {allowed}")


def check_literals(config: Any) -> None:
    """Refuse values that a `Literal` does not list: dataclasses do not enforce it, and a typo must not survive."""
    for name, hint in get_type_hints(type(config)).items():
        allowed = get_args(hint)
        if allowed and getattr(hint, "__origin__", None) is Literal and getattr(config, name) not in allowed:
            raise ValueError(
                f"{name}: {getattr(config, name)!r} is not allowed; allowed: {', '.join(allowed)}"
            )


def _normalization(backbone: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation that the backbone's pretrained weights expect, as timm records them."""
    if backbone in KNOWN_BACKBONES:
        return IMAGENET_MEAN, IMAGENET_STD
    from sdavs_model.lean_timm import timm

    recorded: Any = timm.models.get_pretrained_cfg(backbone)
    return (recorded.mean, recorded.std) if recorded else (IMAGENET_MEAN, IMAGENET_STD)


def _check_backbone_name(name: str) -> None:
    if name in KNOWN_BACKBONES:
        return
    from sdavs_model.lean_timm import timm

    architecture = name.split(".", 1)[0]
    if architecture not in timm.list_models():
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(
            f"backbone: timm {timm.__version__} has no backbone {name!r}; {hint}"
            "allowed: any timm features_only model with stages of stride 4, 8, 16 and 32, such as "
            f"{', '.join(KNOWN_BACKBONES)}"
        )
