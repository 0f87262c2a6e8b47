"""Messages between ingress and decoder over a socket: a JSON header, then the arrays whose sizes it names."""

import json
import math
import socket
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LENGTH = struct.Struct("!I")

MAX_ARRAYS = 3
"""Of one message: picture, second of sound, picture as displayed."""

MAX_HEADER = 16_000_000
"""Bytes; a longer header comes from a decoder that was taken over."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message."""

    what: str
    """From the decoder: sample, sound, error, end, died. From the ingress: job."""
    body: dict[str, Any] = field(default_factory=dict)
    arrays: tuple[np.ndarray, ...] = ()


class Broken(Exception):
    """The other side has ended, or its message is malformed."""


def send(connection: socket.socket, message: Message) -> None:
    """Send one message; blocks until the other side takes it, so nothing accumulates."""
    arrays = [np.ascontiguousarray(array) for array in message.arrays]
    kinds = [{"dtype": array.dtype.str, "shape": array.shape} for array in arrays]
    header = json.dumps({"what": message.what, "body": message.body, "arrays": kinds}).encode()
    connection.sendall(LENGTH.pack(len(header)) + header)
    for array in arrays:
        connection.sendall(array.data.cast("B"))


def receive(connection: socket.socket, *, max_array: int) -> Message:
    """The next message.

    Args:
        connection: its timeout applies to each piece.
        max_array: bytes that one array may have.

    Raises:
        Broken: there is none, or it is malformed.
        TimeoutError: the other side is silent.
    """
    try:
        (length,) = LENGTH.unpack(_exactly(connection, LENGTH.size))
        if length > MAX_HEADER:
            raise Broken(f"a header of {length} bytes")
        header = json.loads(_exactly(connection, length))
        if len(header["arrays"]) > MAX_ARRAYS:
            raise Broken(f"{len(header['arrays'])} arrays")
        arrays = tuple(_array(connection, kind, max_array) for kind in header["arrays"])
        return Message(what=header["what"], body=header["body"], arrays=arrays)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, TimeoutError):
            raise
        raise Broken(str(error)) from error


def _array(connection: socket.socket, kind: dict[str, Any], max_array: int) -> np.ndarray:
    dtype, shape = np.dtype(kind["dtype"]), tuple(kind["shape"])
    size = dtype.itemsize * math.prod(shape)
    if dtype.kind not in "fu" or not 0 <= size <= max_array:
        raise Broken(f"an array of {size} bytes of {dtype}")
    return np.frombuffer(_exactly(connection, size), dtype).reshape(shape)


def _exactly(connection: socket.socket, size: int) -> bytearray:
    content = bytearray(size)
    view = memoryview(content)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise Broken("the connection was closed")
        view = view[count:]
    return content
