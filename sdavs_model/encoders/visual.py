"""Four-stage visual backbones from timm (paper III-A and IV-A: PVT-v2 and Swin)."""

from __future__ import annotations

import sys
from typing import Any

import timm
import torch
from torch import Tensor, nn

from sdavs_model.config import SDAVSConfig
from sdavs_model.weights.read import load_matching, read_state_dict

STRIDES = (4, 8, 16, 32)


class VisualEncoder(nn.Module):
    """Turns frames into four feature maps of stride 4, 8, 16 and 32 (paper III-A).

    Args:
        config: names the backbone, its input size and where its weights come from.

    Raises:
        ValueError: the backbone does not offer four stages, or a weights file does not fit.
    """

    def __init__(self, *, config: SDAVSConfig) -> None:
        super().__init__()
        self.backbone = _create(config)
        self.channels = tuple(self.backbone.feature_info.channels())
        # timm's Swin yields channels-last maps and says so; everything after this class is channels-first.
        self.channels_last = self.backbone.output_fmt == "NHWC"
        if config.backbone_weights is not None:
            load_matching(
                module=self.backbone,
                state=_backbone_state(config.backbone, config.backbone_weights),
                source=config.backbone_weights,
                field="backbone_weights",
                ignore_prefixes=("head.", "head_dist.", "fc.", "classifier.", "norm."),
            )

    def forward(self, frames: Tensor) -> list[Tensor]:
        """frames: [N, 3, H, W] -> four maps [N, C_i, H / 4 / 2^i, W / 4 / 2^i], i = 0 ... 3."""
        maps = self.backbone(frames)
        if self.channels_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        return list(maps)


def _create(config: SDAVSConfig) -> Any:
    pretrained = config.pretrained and config.backbone_weights is None
    arguments: dict = {"pretrained": pretrained, "features_only": True}
    if config.backbone.startswith("swin"):
        arguments["img_size"] = config.image_size
    indices = _last_four_indices(config.backbone)
    try:
        return timm.create_model(config.backbone, out_indices=indices, **arguments)
    except Exception as error:
        if not pretrained:
            raise
        raise ValueError(
            f"pretrained: timm could not fetch weights for {config.backbone!r} ({type(error).__name__}: {error}). "
            "Without access to its hub, download the file elsewhere and set backbone_weights=PATH"
        ) from error


def _last_four_indices(name: str) -> tuple[int, ...]:
    """Positions of the stride 4, 8, 16 and 32 stages among those that timm lists for this backbone."""
    with torch.device("meta"):
        try:
            backbone: Any = timm.create_model(name, pretrained=False, features_only=True)
            reductions = backbone.feature_info.reduction()
        except (RuntimeError, AttributeError, AssertionError, TypeError) as error:
            raise ValueError(f"backbone: {name!r} does not offer timm's features_only ({error})") from error
    if tuple(reductions[-4:]) != STRIDES:
        raise ValueError(
            f"backbone: {name!r} has stages of stride {list(reductions)}; SDAVS needs four of stride {list(STRIDES)}"
        )
    return tuple(range(len(reductions) - 4, len(reductions)))


def _backbone_state(name: str, path: str) -> dict[str, Tensor]:
    """Weights under the names that timm's features_only model uses.

    timm's own filters translate the original authors' files; features_only then flattens
    "stages.0." and "layers.0." to "stages_0." and "layers_0.".
    """
    state = read_state_dict(path, field="backbone_weights")
    home = sys.modules[timm.models.model_entrypoint(name.split(".", 1)[0]).__module__]
    translate = getattr(home, "checkpoint_filter_fn", None)
    if translate is not None:
        with torch.device("meta"):
            whole = timm.create_model(name, pretrained=False)
        state = translate(state, whole)
    renamed = {}
    for key, value in state.items():
        parts = key.split(".", 2)
        if parts[0] in ("stages", "layers") and len(parts) == 3:
            key = f"{parts[0]}_{parts[1]}.{parts[2]}"
        renamed[key] = value
    return renamed
