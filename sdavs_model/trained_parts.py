"""A trained model without its frozen encoders: one small file, combined with the encoders where it is used.

The file is safetensors without pickle: the trained weights in fp16, batch statistics in fp32, and the model's card as
JSON in the header. The encoders are pretrained weights that the card names (`sdavs_model.weights.catalogue`) with their
digests, so a joined model is the one that was trained.
"""

import dataclasses
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sdavs_model.architectures import build_model, config_from_dict
from sdavs_model.architectures.base import SegmentationModel
from sdavs_model.artifact import LoadedModel
from sdavs_model.config import ModelConfig
from sdavs_model.files import replacing, sha256_of
from sdavs_model.weights.store import resolve_weights

SHIPPED = Path(__file__).parent / "shipped" / "sdavs_realav.safetensors"
"""The trained model that comes with the product; its card is the README.md next to it."""

FORMAT = 1
ENCODERS = ("visual_encoder.", "audio_encoder.")
WEIGHT_KEYS = ("backbone_weights", "audio_weights")


@dataclass(frozen=True, kw_only=True)
class PartsCard:
    """The metadata of a file of parts."""

    config: ModelConfig
    """Names the encoders' pretrained weights."""
    classes: list[str]
    metrics: dict[str, Any]
    """The model's scores, by split; those of the fp32 weights."""
    lineage: dict[str, Any]
    """As in the artifact that the parts were taken from."""
    encoders: dict[str, dict[str, Any]]
    """The records of the pretrained weights, by config key: name, source, sha256, licence, training data."""


def write_parts(path: Path, loaded: LoadedModel) -> PartsCard:
    """Write the trained parts of a model whose pretrained encoders are frozen.

    Args:
        loaded: the artifact of a training.

    Returns:
        The card that the file holds.

    Raises:
        ValueError: an encoder was trained, or its weights are none of the catalogue.
    """
    encoders = loaded.lineage.get("weights", {})
    config = loaded.config
    for key in WEIGHT_KEYS:
        if "name" not in encoders.get(key, {}):
            raise ValueError(
                f"model.{key}: the model was not trained on weights of `jobs/prepare_weights.py list`, and its parts "
                "alone would be of no use"
            )
    if not (config.freeze_backbone and config.audio_encoder_is_frozen):
        raise ValueError(
            "model.freeze_backbone, model.freeze_audio_encoder: both must have been true in the training"
        )
    names = {key: encoders[key]["name"] for key in WEIGHT_KEYS}
    card = PartsCard(
        config=dataclasses.replace(config, **names),
        classes=loaded.classes,
        metrics=loaded.metrics,
        lineage=loaded.lineage,
        encoders={key: encoders[key] for key in WEIGHT_KEYS},
    )
    parameters = {name for name, _ in loaded.model.named_parameters()}
    tensors = {
        name: (value.half() if name in parameters else value).contiguous()
        for name, value in loaded.model.state_dict().items()
        if not name.startswith(ENCODERS)
    }
    content = {"format": FORMAT, **asdict(card)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        save_file(tensors, part, metadata={"card": json.dumps(content)})
        part.chmod(0o644)
    return card


def read_parts(path: Path) -> tuple[PartsCard, dict[str, Tensor]]:
    """The card of a file of parts, and the trained tensors by their names in the model, in fp32.

    Raises:
        ValueError: it is missing, no such file, or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})["card"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a readable file of a model's parts: {error}") from error
    if content.pop("format") != FORMAT:
        raise ValueError(f"{path}: written in another format; this version reads format {FORMAT}")
    config = config_from_dict(content.pop("config"))
    floats = {n: t.float() if t.dtype == torch.float16 else t for n, t in tensors.items()}
    return PartsCard(config=config, **content), floats


def load_parts(path: Path, *, weights_folder: Path) -> tuple[SegmentationModel, PartsCard]:
    """The whole model, on the CPU in eval mode.

    Args:
        path: written by `write_parts`.
        weights_folder: of `WeightsFolder`; holds the encoders.

    Raises:
        ValueError: the file is missing, of another format or does not fit its config; an encoder is not in the
            folder or is another one than the parts were trained on.
    """
    card, tensors = read_parts(path)
    config = resolve_weights(card.config, folder=weights_folder, prefix="model.")
    for key in WEIGHT_KEYS:
        found = sha256_of(Path(getattr(config, key)))
        if found != card.encoders[key]["sha256"]:
            raise ValueError(
                f"{path}: was trained on {card.encoders[key]['name']} with sha256 {card.encoders[key]['sha256']}, but "
                f"{getattr(config, key)} has {found}"
            )
    model = build_model(config)
    own = {name: value for name, value in model.state_dict().items() if not name.startswith(ENCODERS)}
    wrong = [name for name in own.keys() | tensors.keys() if _shape(own, name) != _shape(tensors, name)]
    if wrong:
        raise ValueError(
            f"{path}: does not fit its config; {len(wrong)} tensors differ, such as {min(wrong)}"
        )
    model.load_state_dict(tensors, strict=False)
    return model.eval(), card


def _shape(tensors: dict[str, Tensor], name: str) -> torch.Size | None:
    return tensors[name].shape if name in tensors else None
