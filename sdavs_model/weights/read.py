"""Local weight files: read without executing pickle code, loaded with a plain account of what does not fit."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn


def read_state_dict(path: str | Path, *, field: str) -> dict[str, Tensor]:
    """Read a flat mapping of tensors from a .safetensors or a torch file.

    Args:
        path: the file; for torch files also one that nests the mapping under "state_dict" or "model".
        field: the config key to name in errors.

    Raises:
        ValueError: the file is missing, unreadable, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{field}: no such file: {path}")
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{field}: {path} is not a plain file of tensors: {error}") from error
    for nest in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(nest), dict):
            state = state[nest]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{field}: {path} holds no mapping of names to tensors")
    return state


def load_matching(
    *,
    module: nn.Module,
    state: dict[str, Tensor],
    source: str,
    field: str,
    ignore_prefixes: tuple[str, ...] = (),
) -> None:
    """Load `state` into `module`, which must be covered completely.

    Args:
        ignore_prefixes: names in the file that the module does not need (a classifier head, say).

    Raises:
        ValueError: lists every missing, unexpected and wrongly shaped tensor.
    """
    state = {k: v for k, v in state.items() if not k.startswith(ignore_prefixes)}
    own = module.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    reshaped = [
        f"{k} (file {list(state[k].shape)}, model {list(own[k].shape)})"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    if any(faults.values()):
        lines = [f"{len(names)} {what}: {_shorten(names)}" for what, names in faults.items() if names]
        raise ValueError(f"{field}: {source} does not fit: " + "; ".join(lines))
    module.load_state_dict(state, strict=False)


def _shorten(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
