"""Nested states of training as safetensors files: tensors as they are, everything else as JSON in the header.

For what `torch.save` would pickle. A state is made of dicts, lists, tuples, numbers, strings, None and tensors, and of
objects of the few classes that the caller names. A file that names any other class is refused; none can run code.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

_STATE = "state"
"""Key of the header's metadata."""


def write_state(state: Any, file: Path, *, classes: Sequence[type] = ()) -> None:
    """Write a state; its tensors may be on any device.

    Args:
        classes: of the objects in it whose attributes are plain values.

    Raises:
        TypeError: the state holds something else; says what and where.
    """
    tensors: dict[str, torch.Tensor] = {}
    names: dict[tuple[Any, ...], str] = {}  # of tensors that are the same memory, such as tied weights

    def encode(value: Any, path: str) -> Any:
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, (int, float)):
            return float(value) if isinstance(value, float) else int(value)  # no enumerations
        if isinstance(value, torch.Tensor):
            memory = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
            name = names.setdefault(memory, path) if value.numel() else path
            if name == path:
                assert name not in tensors, name
                tensors[name] = value.detach().cpu().contiguous()
            return {"tensor": name}
        if isinstance(value, list):
            return [encode(one, f"{path}/{index}") for index, one in enumerate(value)]
        if isinstance(value, tuple):
            items = [encode(one, f"{path}/{index}") for index, one in enumerate(value)]
            return {"size" if isinstance(value, torch.Size) else "tuple": items}
        if isinstance(value, Mapping):
            return {"dict": [[encode(key, path), encode(one, f"{path}/{key}")] for key, one in value.items()]}
        if type(value) in classes:
            return {"object": [type(value).__name__, encode(vars(value), path)]}
        raise TypeError(f"{path or 'the state'}: a {type(value).__name__} cannot be stored")

    text = json.dumps(encode(state, ""))
    save_file(tensors, file, metadata={_STATE: text})


def read_state(file: Path, *, classes: Sequence[type] = ()) -> Any:
    """The inverse of `write_state`; tensors are on the CPU, mapped from the file and read when they are used.

    Raises:
        ValueError: no such file, or a class in it is not among `classes`.
    """
    by_name = {one.__name__: one for one in classes}

    with safe_open(file, "pt") as content:
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (no mapping)
        text = (content.metadata() or {}).get(_STATE)
    if text is None:
        raise ValueError(f"{file}: not the state of a training; expected the metadata entry {_STATE!r}")

    def decode(value: Any) -> Any:
        if isinstance(value, list):
            return [decode(one) for one in value]
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "tensor":
            return tensors[content]
        if kind == "dict":
            return {decode(key): decode(one) for key, one in content}
        if kind == "object":
            name, attributes = content
            if name not in by_name:
                raise ValueError(f"{file}: refused; it holds a {name}, and only {sorted(by_name)} are read")
            made: Any = object.__new__(by_name[name])
            made.__dict__.update(decode(attributes))
            return made
        return (torch.Size if kind == "size" else tuple)(decode(one) for one in content)

    return decode(json.loads(text))
