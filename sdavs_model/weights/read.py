"""Weight files, read without executing pickle code."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor

from sdavs_model.config import ModelConfig
from sdavs_model.encoders.loading import Weights
from sdavs_model.weights.catalogue import CATALOGUE


def read_weights(path: str | Path, *, field: str) -> Weights:
    """Read a flat mapping of tensors from a .safetensors or a torch file.

    Args:
        path: the file; for torch files also one that nests the mapping under "state_dict" or "model".
        field: the config key to name in errors.

    Raises:
        ValueError: the file is missing, unreadable, or holds anything but tensors.
    """
    if str(path) in CATALOGUE:
        raise ValueError(
            f"{field}: {path} is a name; sdavs_model.weights.store.resolve_weights finds its file"
        )
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{field}: no such file: {path}")
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else _read_torch(path)
    except (SafetensorError, _NotTensorsError) as error:
        raise ValueError(f"{field}: {path} is not a plain file of tensors: {error}") from error
    return Weights(tensors=tensors, source=str(path), field=field)


def configured_weights(config: ModelConfig) -> tuple[Weights | None, Weights | None]:
    """The pretrained weights of backbone and audio encoder that a config names; None for random or timm's own ones.

    Raises:
        ValueError: as `read_weights`.
    """
    if config.from_scratch:
        return None, None
    backbone, audio = (
        None if (path := getattr(config, field)) is None else read_weights(path, field=field)
        for field in ("backbone_weights", "audio_weights")
    )
    return backbone, audio


def parse_weights(content: bytes, *, name: str, source: str, field: str) -> Weights:
    """The same from a file's bytes; `name` determines its format, `source` names it in errors."""
    try:
        tensors = load(content) if name.endswith(".safetensors") else _read_torch(io.BytesIO(content))
    except (SafetensorError, _NotTensorsError) as error:
        raise ValueError(f"{field}: {source} is not a plain file of tensors: {error}") from error
    return Weights(tensors=tensors, source=source, field=field)


class _NotTensorsError(Exception):
    pass


def _read_torch(file: Path | io.BytesIO) -> dict[str, Tensor]:
    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise _NotTensorsError(str(error)) from error
    for nest in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(nest), dict):
            state = state[nest]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise _NotTensorsError("no mapping of names to tensors")
    return state
