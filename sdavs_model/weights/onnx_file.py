"""The convolutions of an ONNX file, read without running it.

An ONNX file is a protobuf message. The few of its fields that matter here are declared below, with the numbers of
onnx.proto, and protobuf itself does the parsing: the `onnx` package would be 33 MB for this one purpose.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from torch import Tensor

FLOAT = 1
"""onnx.proto: TensorProto.DataType.FLOAT."""
EXTERNAL = 1
"""onnx.proto: TensorProto.DataLocation.EXTERNAL, the bytes are in another file."""

# message -> field -> (number, type, repeated); a capitalised type is a message of this table.
_FIELDS: dict[str, dict[str, tuple[int, str, bool]]] = {
    "Model": {"graph": (7, "Graph", False)},
    "Graph": {"node": (1, "Node", True), "initializer": (5, "Tensor", True)},
    "Node": {
        "input": (1, "string", True),
        "output": (2, "string", True),
        "op_type": (4, "string", False),
        "attribute": (5, "Attribute", True),
    },
    "Attribute": {"name": (1, "string", False), "i": (3, "int64", False), "ints": (8, "int64", True)},
    "Tensor": {
        "dims": (1, "int64", True),
        "data_type": (2, "int32", False),
        "float_data": (4, "float", True),
        "name": (8, "string", False),
        "raw_data": (9, "bytes", False),
        "external_data": (13, "Entry", True),
        "data_location": (14, "int32", False),
    },
    "Entry": {"key": (1, "string", False), "value": (2, "string", False)},
}


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """One Conv node with its weights in fp32."""

    weight: Tensor
    """[C_out, C_in / groups, h, w]."""
    bias: Tensor
    """[C_out]."""
    stride: tuple[int, ...]
    pads: tuple[int, ...]
    """top, left, bottom, right."""
    groups: int


def read_convolutions(content: bytes, files: Mapping[str, bytes], *, source: str) -> list[Convolution]:
    """All Conv nodes in the order of the graph, their weights from behind any quantising and dequantising nodes.

    Args:
        content: the ONNX file.
        files: by name, the files next to it, which large tensors may lie in.
        source: what to call the file in errors.

    Raises:
        ValueError: no ONNX file, a file next to it that is missing or too short, or weights that are not in fp32.
    """
    model = _message_class("Model")()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ValueError(f"{source}: not an ONNX file: {error}") from error
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    quantised = ("QuantizeLinear", "DequantizeLinear")
    origin = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type in quantised}

    def stored(name: str) -> Tensor:
        while name in origin:
            name = origin[name]
        if name not in tensors:
            raise ValueError(f"{source}: {name!r} is computed, not stored; only fp32 weights can be read")
        return _floats(tensors[name], files, source)

    return [
        _convolution(node, stored(node.input[1]), stored(node.input[2]))
        for node in model.graph.node
        if node.op_type == "Conv" and len(node.input) == 3
    ]


def _convolution(node: Any, weight: Tensor, bias: Tensor) -> Convolution:
    given = {attribute.name: attribute for attribute in node.attribute}
    return Convolution(
        weight=weight,
        bias=bias,
        stride=tuple(given["strides"].ints) if "strides" in given else (1, 1),
        pads=tuple(given["pads"].ints) if "pads" in given else (0, 0, 0, 0),
        groups=given["group"].i if "group" in given else 1,
    )


def _floats(tensor: Any, files: Mapping[str, bytes], source: str) -> Tensor:
    if tensor.data_type != FLOAT:
        raise ValueError(f"{source}: {tensor.name!r} is not in fp32; only fp32 weights can be read")
    if tensor.float_data:
        return torch.tensor(list(tensor.float_data)).view(*tensor.dims)
    raw = tensor.raw_data
    if tensor.data_location == EXTERNAL:
        where = {entry.key: entry.value for entry in tensor.external_data}
        if where["location"] not in files:
            raise ValueError(f"{source}: needs {where['location']} next to it")
        start = int(where.get("offset", 0))
        raw = files[where["location"]][start : start + 4 * math.prod(tensor.dims)]
    if len(raw) != 4 * math.prod(tensor.dims):
        raise ValueError(f"{source}: {tensor.name!r} is truncated")
    return torch.frombuffer(bytearray(raw), dtype=torch.float32).view(*tensor.dims)


def _message_class(name: str) -> Any:
    package = "sdavs.onnx"
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="sdavs/onnx.proto", package=package, syntax="proto2")
    for message, fields in _FIELDS.items():
        declared = file.message_type.add(name=message)
        for field, (number, kind, repeated) in fields.items():
            added = declared.field.add(name=field, number=number)
            added.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            if kind in _FIELDS:
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                added.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
