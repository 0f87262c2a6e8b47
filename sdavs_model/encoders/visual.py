"""Visual backbones from timm with feature maps of stride 4, 8, 16 and 32 (paper III-A and IV-A: PVT-v2 and Swin)."""

import copy
import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sdavs_model.config import ModelConfig
from sdavs_model.encoders.encoder import Encoder
from sdavs_model.encoders.loading import Weights, load_matching
from sdavs_model.lean_timm import timm

STRIDES = (4, 8, 16, 32)


class VisualEncoder(Encoder):
    """Turns frames into four feature maps of stride 4, 8, 16 and 32 (paper III-A).

    Args:
        config: names the backbone and its input size, and says whether timm fetches its weights.
        weights: take the place of timm's; under timm's names or those of the original authors' files.

    Raises:
        ValueError: the backbone does not offer four such stages, or the weights do not fit.
    """

    def __init__(self, *, config: ModelConfig, weights: Weights | None = None) -> None:
        super().__init__()
        layout = find_layout(config.backbone, config.image_size)
        pretrained = config.pretrained and weights is None and not config.from_scratch
        self.backbone = _create(config.backbone, layout, pretrained=pretrained)
        self.image_size = config.image_size
        self.channels = layout.channels
        self.channels_last = layout.channels_last
        if weights is not None:
            tensors = _under_feature_names(weights.tensors, self.backbone, config.backbone, layout)
            load_matching(module=self.backbone, weights=weights.renamed(tensors))

    def forward(self, frames: Tensor) -> list[Tensor]:
        """frames: [N, 3, H, W] -> four maps [N, C_i, H / 4 / 2^i, W / 4 / 2^i], i = 0 ... 3."""
        if frames.device.type == "cpu" and not (self.training or torch.compiler.is_compiling()):
            # A backbone of convolutions takes a fifth less time in this layout on a CPU.
            frames = frames.contiguous(memory_format=torch.channels_last)
        maps = self.backbone(frames)
        if self.channels_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        return list(maps)

    def stages(self) -> dict[str, int]:
        """The stage of each parameter: the first of the four maps, 0 ... 3, that depends on it."""
        replica = copy.deepcopy(self).to("meta").train(False).requires_grad_()
        parameters = dict(replica.named_parameters())
        found: dict[str, int] = {}
        maps = replica(torch.empty(1, 3, self.image_size, self.image_size, device="meta"))
        for stage, each in enumerate(maps):
            gradients = torch.autograd.grad(
                each.sum(), list(parameters.values()), allow_unused=True, retain_graph=True
            )
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    found.setdefault(name, stage)
        return found


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How timm builds a backbone so that it yields the four maps."""

    indices: tuple[int, ...]
    """Positions of the four stages, timm's `out_indices`."""
    channels: tuple[int, ...]
    """Channels of the four maps."""
    channels_last: bool
    """Whether timm yields them as [N, H, W, C]; everything after `VisualEncoder` is channels-first."""
    arguments: dict[str, Any]
    """Further arguments of `timm.create_model`: the input size, if the architecture depends on it."""


@functools.cache
def find_layout(name: str, image_size: int) -> Layout:
    """The layout of a backbone, found on the meta device: no weights, no arithmetic.

    Raises:
        ValueError: the backbone has no stages of stride 4, 8, 16 and 32, or takes no pictures of this size.
    """
    recorded = timm.models.get_pretrained_cfg(name)
    arguments: dict[str, Any] = {"img_size": image_size} if recorded and recorded.fixed_input_size else {}
    with torch.device("meta"), torch.no_grad():
        try:
            features: Any = timm.create_model(name, features_only=True, **arguments).eval()
            strides = features.feature_info.reduction()
        except (RuntimeError, AttributeError, AssertionError, TypeError) as error:
            raise ValueError(f"backbone: {name!r} does not offer timm's features_only ({error})") from error
        if tuple(strides[-4:]) != STRIDES:
            raise ValueError(
                f"backbone: {name!r} has stages of stride {list(strides)}; four are needed, of stride {list(STRIDES)}"
            )
        try:
            maps = features(torch.empty(1, 3, image_size, image_size))[-4:]
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise ValueError(
                f"backbone: {name!r} does not support image_size={image_size}: {reason}"
            ) from error
    channels = tuple(features.feature_info.channels()[-4:])
    # EfficientNets, MobileNets and HRNets do not say; they are channels-first.
    channels_last = getattr(features, "output_fmt", "NCHW") == "NHWC"
    assert channels == tuple(m.shape[-1 if channels_last else 1] for m in maps)
    # Not simply the last four of all stages: some backbones leave their first stage out of the list.
    indices = tuple(features.feature_info.out_indices[-4:])
    return Layout(indices=indices, channels=channels, channels_last=channels_last, arguments=arguments)


def _create(name: str, layout: Layout, *, pretrained: bool) -> Any:
    try:
        return timm.create_model(
            name,
            pretrained=pretrained,
            features_only=True,
            out_indices=layout.indices,
            **layout.arguments,
        )
    except Exception as error:
        if not pretrained:
            raise
        raise ValueError(
            f"pretrained: timm could not fetch weights for {name!r} ({type(error).__name__}: {error}); "
            "without access to its hub, download the file elsewhere and set backbone_weights=PATH"
        ) from error


def _under_feature_names(
    tensors: Mapping[str, Tensor], features: nn.Module, name: str, layout: Layout
) -> dict[str, Tensor]:
    """The tensors of a backbone under the names of timm's features_only model.

    timm's own filters translate the original authors' files to the names of the whole classifier. features_only
    leaves its head out, and some of its wrappers flatten "stages.0." to "stages_0." or prepend "model.".
    """
    with torch.device("meta"):
        whole = timm.create_model(name, **layout.arguments)
    home = sys.modules[timm.models.model_entrypoint(name.split(".", 1)[0]).__module__]
    translate = getattr(home, "checkpoint_filter_fn", None)
    state = dict(tensors) if translate is None else translate(dict(tensors), whole)
    own = {_flat(key): key for key in features.state_dict()}
    head = {key for key in whole.state_dict() if _flat(key) not in own}
    return {own.get(_flat(key), key): value for key, value in state.items() if key not in head}


def _flat(key: str) -> str:
    return key.removeprefix("model.").replace(".", "_")
