"""Complete responses, and reusing one for the same clip: three downloads of a clip are one inference.

A response is reused for the same bytes, the same parameters, the same version and the same API key; what one client has
sent is not visible to another, not even by the time that a response takes.
"""

import hashlib
import json
import shutil
import tempfile
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from sdavs_serve.decoding.sandboxed_decoders import Upload
from sdavs_serve.schema import Timings

LARGEST = 0.25
"""Fraction of the cache that one response may take; larger ones are not kept."""


@dataclass(frozen=True, kw_only=True)
class Segmented:
    """A complete response, on disk."""

    body: IO[bytes]
    media_type: str
    version: int
    data_digest: str
    """Of the data that this version was trained on."""
    num_frames: int
    timings: Timings
    reused: bool = False
    """It was computed for an earlier request."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What determines a response, but for the version."""

    media_type: str
    options: str
    """Of the writer, such as the index of the picture."""
    owner: str
    """Id of the API key; empty without keys."""


class ResultCache:
    """The latest responses of one ingress replica, in files; those used longest ago are dropped first."""

    def __init__(self, max_bytes: int) -> None:
        """
        Args:
            max_bytes: of all kept responses together.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="results-")
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, tuple[Segmented, int]] = OrderedDict()
        self._num_bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> Segmented | None:
        """The cached response, with its own file. Blocking."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            body = self._path(key).open("rb")  # closed when it has been sent
            return replace(self._kept[key][0], body=body, reused=True)

    def put(self, key: str, made: Segmented) -> None:
        """Cache a response, unless it is large. Blocking."""
        size = made.body.seek(0, 2)
        if size > LARGEST * self._max_bytes:
            return
        made.body.seek(0)
        with tempfile.NamedTemporaryFile(dir=self._folder.name, delete=False) as file:
            shutil.copyfileobj(made.body, file)
        with self._lock:
            Path(file.name).replace(self._path(key))
            if key in self._kept:
                self._num_bytes -= self._kept.pop(key)[1]
            self._kept[key] = (made, size)
            self._num_bytes += size
            while self._num_bytes > self._max_bytes:
                dropped, (_, freed) = self._kept.popitem(last=False)
                self._path(dropped).unlink()
                self._num_bytes -= freed

    def _path(self, key: str) -> Path:
        return Path(self._folder.name) / key


def content_digest(upload: Upload) -> str:
    """SHA-256 of an upload's bytes and of where its parts begin. Blocking."""
    upload.file.seek(0)
    content = hashlib.file_digest(upload.file, "sha256")  # type: ignore[arg-type]
    upload.file.seek(0)
    content.update(json.dumps([upload.kind, upload.parts]).encode())
    return content.hexdigest()


def result_key(digest: str, asked: Asked, upload: Upload, identity: str) -> str:
    """Name a response: two that may differ have different names.

    Args:
        digest: `content_digest` of the upload.
        asked: what else the client has asked for.
        upload: has the parameters of the model's call.
        identity: `Target.identity` of the version.
    """
    parts = [digest, asked.media_type, asked.options, asked.owner, upload.fps, upload.threshold, identity]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
