"""A cache of decoded waveforms and log-mel examples on disk, keyed by the content of the sound files."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdavs_model.data.core.audio import read_audio
from sdavs_model.data.core.clip import SAMPLE_RATE
from sdavs_model.data.core.wav import INTEGER, NotPCM, WavFormat, wav_format
from sdavs_model.files import replacing, sha256_of

CACHE_VERSION = 1
"""Goes up with every change of what `read_audio` or `Preprocessor.log_mel` make of a file."""


class SoundCache:
    """A folder of arrays, each named after the sha256 of what it was made of: file contents and settings.

    Nothing in it is ever out of date, so it may be shared by data sets, runs and processes, and deleted at any time.
    An array appears under its name when it is whole; one that cannot be read is made again.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._digests: dict[tuple[Path, int, int], str] = {}

    def waveform(self, path: Path) -> np.ndarray:
        """[N] float32 at 16 kHz, mono, as `read_audio` has it. Raises ValueError as `read_audio`."""
        if is_plain(path):
            return read_audio(path)  # as fast as the cache
        return self._array(self._key([path], {"what": "waveform"}), lambda: read_audio(path))

    def log_mel(
        self, files: Sequence[Path], settings: Mapping[str, Any], make: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        """[T, 1, 96, 64] float32.

        Args:
            files: every file that the sound comes from.
            settings: whatever else decides the result, as JSON values.
            make: makes it, if it is not there.

        Raises:
            ValueError: a file is missing; names it. And as `make`.
        """
        key = self._key(files, {"what": "log_mel", **settings})
        return torch.from_numpy(self._array(key, lambda: make().numpy()))

    def _array(self, key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        path = self.folder / key[:2] / f"{key}.npy"
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, EOFError, ValueError):
            array = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("wb") as file:
            np.save(file, array)
        return array

    def _key(self, files: Sequence[Path], settings: Mapping[str, Any]) -> str:
        made_of = {"version": CACHE_VERSION, "files": [self._digest(path) for path in files], **settings}
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    def _digest(self, path: Path) -> str:
        """sha256 of a file; read again only if its size or time has changed, so an epoch reads no sound."""
        try:
            stat = path.stat()
        except FileNotFoundError:
            raise ValueError(f"{path}: no such sound file") from None
        seen = (path, stat.st_size, stat.st_mtime_ns)
        if seen not in self._digests:
            self._digests[seen] = sha256_of(path)
        return self._digests[seen]


def is_plain(path: Path) -> bool:
    """Whether a file is 16-bit PCM wav at 16 kHz, mono: what needs no decoding."""
    try:
        with path.open("rb") as file:
            return wav_format(file) == WavFormat(tag=INTEGER, width=2, channels=1, rate=SAMPLE_RATE)
    except (NotPCM, OSError):
        return False
