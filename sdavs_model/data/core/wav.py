"""PCM wav files: integer or float of any width, RF64, and those written into pipes without their length."""

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

INTEGER, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
"""Format tags; an extensible header holds one of the other two further behind."""

UNKNOWN_SIZE = 0x7F000000
"""From here on the size of the samples is a placeholder: of a program that wrote to a pipe and could not go back."""

UNKNOWN_LONG_SIZE = 1 << 62
"""The same for sizes of 64 bit."""

DTYPES = {(INTEGER, 1): "u1", (INTEGER, 2): "<i2", (INTEGER, 4): "<i4", (FLOAT, 4): "<f4", (FLOAT, 8): "<f8"}
"""By format and bytes of a sample; 3 bytes have no type of their own."""


class NotPCM(Exception):
    """No wav file, or one whose samples are compressed."""


@dataclass(frozen=True, kw_only=True)
class WavFormat:
    """The fields of the header."""

    tag: int
    """`INTEGER` or `FLOAT`."""
    width: int
    """Bytes of a sample."""
    channels: int
    rate: int

    @property
    def frame(self) -> int:
        """Bytes of the samples of all channels at one moment."""
        return self.width * self.channels


def read_wav(file: BinaryIO, name: str) -> tuple[np.ndarray, int]:
    """[C, N] float32 in [-1, 1] (floats as they are), and the sample rate.

    Args:
        file: open at its beginning, seekable.
        name: for messages.

    Raises:
        NotPCM: it is no wav, or compressed.
        ValueError: it ends before the samples that its header promises, or has them big-endian; names it.
    """
    form, size = find_samples(file, name)
    data = file.read(size)
    data = data[: size // form.frame * form.frame]
    return _as_float(data, form).reshape(-1, form.channels).T, form.rate


def find_samples(file: BinaryIO, name: str) -> tuple[WavFormat, int]:
    """Move to the first sample; the format, and how many bytes of samples follow. Raises as `read_wav`."""
    top = file.tell()
    if file.read(4) == b"RIFX":
        raise ValueError(f"{name}: a wav of big-endian samples (RIFX); save it as an ordinary wav")
    file.seek(top)
    form, size = _find_samples(file)
    begin = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(begin)
    # Some programs write the size of the whole file, or of all behind its first eight bytes.
    if size is None or size in (end, end - 8):
        return form, end - begin
    if size > end - begin:
        raise ValueError(f"{name}: truncated wav; it ends before its {size // form.frame} samples")
    return form, size


def wav_format(file: BinaryIO) -> WavFormat:
    """The header's content alone. Raises NotPCM as `read_wav`."""
    return _find_samples(file)[0]


def _find_samples(file: BinaryIO) -> tuple[WavFormat, int | None]:
    """Move to the first sample; the format, and the bytes of all samples or None: up to the end of the file."""
    riff = file.read(12)
    if riff[:4] not in (b"RIFF", b"RF64", b"BW64") or riff[8:] != b"WAVE":
        raise NotPCM
    form: WavFormat | None = None
    long_size: int | None = None
    while len(header := file.read(8)) == 8:
        kind, size = struct.unpack("<4sI", header)
        if kind == b"data":
            if form is None:
                raise NotPCM
            return form, _size_of_samples(file, size, long_size)
        content = file.read(size)
        if size % 2 and file.read(1) not in (b"\0", b""):
            file.seek(-1, io.SEEK_CUR)  # the byte that makes sizes even was left out
        if kind == b"fmt ":
            form = _format(content)
        elif kind == b"ds64" and len(content) >= 16:
            (long_size,) = struct.unpack("<Q", content[8:16])
    raise NotPCM


def _size_of_samples(file: BinaryIO, size: int, long_size: int | None) -> int | None:
    if size == 0xFFFFFFFF and long_size and long_size < UNKNOWN_LONG_SIZE:
        return long_size
    if size >= UNKNOWN_SIZE:
        return None
    if size == 0:
        # Nothing follows an empty sound but chunks, if anything.
        begin = file.tell()
        following = file.read(4)
        file.seek(begin)
        return 0 if not following or (following.isascii() and following.strip().isalnum()) else None
    return size


def _format(content: bytes) -> WavFormat:
    if len(content) < 16:
        raise NotPCM
    tag, channels, rate, _, frame, bits = struct.unpack("<HHIIHH", content[:16])
    if tag == EXTENSIBLE and len(content) >= 26:
        (tag,) = struct.unpack("<H", content[24:26])
    width = -(-bits // 8)
    if (tag, width) not in DTYPES and (tag, width) != (INTEGER, 3):
        raise NotPCM
    # Of 24 bit in 32, and not by the extensible header's rule, there are several kinds; FFmpeg knows them.
    if not rate or not channels or (width, frame) == (3, 4 * channels):
        raise NotPCM
    return WavFormat(tag=tag, width=width, channels=channels, rate=rate)


def _as_float(data: bytes, form: WavFormat) -> np.ndarray:
    if form.width == 3:
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return padded.view("<i4")[:, 0].astype(np.float32) / 2147483648
    samples = np.frombuffer(data, DTYPES[form.tag, form.width]).astype(np.float32)
    if form.tag == FLOAT:
        return samples
    return samples / 128 - 1 if form.width == 1 else samples / 2.0 ** (8 * form.width - 1)
