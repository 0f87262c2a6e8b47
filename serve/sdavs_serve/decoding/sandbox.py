"""The ingress's side: an upload goes to a decoder process, samples come back, and its death is the file's fault."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from sdavs_platform.config.serve import ServeConfig

from sdavs_serve.decoding import wire
from sdavs_serve.decoding.media import Sample
from sdavs_serve.decoding.upload import Upload
from sdavs_serve.decoding.work import Job, MediaLimits
from sdavs_serve.errors import MediaError

logger = logging.getLogger("ray.serve")

SECOND = 64_000
"""Bytes of a second of sound, 16 kHz float32."""

SOUND_BLOCK = 64_000_000
"""Bytes that one block of sound may have."""


class Decoding:
    """One job under way. Iterate in a thread; `close` from anywhere ends it, and the decoder with it."""

    def __init__(self, connection: socket.socket, job: Job, field: str) -> None:
        self._connection = connection
        self._job = job
        self._field = field

    def samples(self) -> Iterator[Sample]:
        """The upload, moment by moment. Raises MediaError as soon as something is wrong."""
        for message in self._messages(max_array=max(3 * self._job.limits.max_pixels, SECOND)):
            picture, second = message.arrays
            yield Sample(time_s=message.body["time_s"], picture=picture, second=second)

    def sound(self) -> Iterator[np.ndarray]:
        """Blocks [2, N] float32 at 48 kHz. Raises MediaError as soon as something is wrong."""
        for message in self._messages(max_array=SOUND_BLOCK):
            yield message.arrays[0]

    def close(self) -> None:
        """A decoder that still works ends at its next word."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _messages(self, *, max_array: int) -> Iterator[wire.Message]:
        try:
            wire.send(self._connection, wire.Message(what="job", body=self._job.to_json()))
            while (message := self._receive(max_array)).what != "end":
                if message.what == "error":
                    raise MediaError(**message.body)
                if message.what == "died":
                    raise self._death(message.body["signal"])
                yield message
        finally:
            self.close()

    def _receive(self, max_array: int) -> wire.Message:
        try:
            return wire.receive(self._connection, max_array=max_array)
        except (wire.Broken, TimeoutError) as error:
            logger.warning("a decoder is gone: %s", error)
            raise self._death(0) from error

    def _death(self, number: int) -> MediaError:
        limits = self._job.limits
        if number == signal.SIGXCPU:
            detail = f"takes more than {limits.decoder_cpu_s:g} s of processor time to decode"
            return MediaError("too_large", detail, field=self._field, limit="decoder_cpu_s")
        if number == signal.SIGALRM:
            detail = f"takes more than {limits.timeout_s:g} s to decode"
            return MediaError("too_large", detail, field=self._field, limit="timeout_s")
        name = signal.Signals(number).name if number else "no word"
        return MediaError("corrupt", f"the decoder died of it ({name})", field=self._field)


class Sandbox:
    """Starts decoders; one for each ingress replica."""

    def __init__(self, config: ServeConfig) -> None:
        self._limits = MediaLimits.of(config)
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._server: subprocess.Popen | None = None

    def samples(self, upload: Upload) -> Decoding:
        """Decode an upload."""
        return self._start(upload, upload.kind)

    def sound(self, upload: Upload, *, until: float) -> Decoding:
        """Decode its sound once more, for an overlay."""
        return self._start(upload, "sound", until=until)

    @property
    def server(self) -> int:
        """Number of the process that decoders are forked from; it is started with the first upload."""
        assert self._server
        return self._server.pid

    def close(self) -> None:
        """End the process that decoders are forked from."""
        with self._lock:
            self._stop()

    def _start(self, upload: Upload, what: Any, until: float = 0.0) -> Decoding:
        ours, theirs = socket.socketpair()
        ours.settimeout(self._limits.timeout_s)
        with self._lock, theirs:
            for attempt in range(2):
                try:
                    if self._control is None:
                        self._launch()
                    assert self._control
                    socket.send_fds(self._control, [b"!"], [theirs.fileno(), upload.file.fileno()])
                    break
                except OSError:
                    # The server is gone, which no upload can bring about; somebody killed it.
                    self._stop()
                    if attempt:
                        raise
        job = Job(what=what, parts=upload.parts, fps=upload.fps, limits=self._limits, until=until)
        return Decoding(ours, job, "video" if upload.kind == "video" else "audio")

    def _launch(self) -> None:
        ours, theirs = socket.socketpair()
        # No variable of ours goes along: among them are addresses with passwords.
        environment = {
            "PATH": os.defpath,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OPENBLAS_NUM_THREADS": "1",
        }
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "sdavs_serve.decoding.server", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self._control = ours

    def _stop(self) -> None:
        if self._control:
            self._control.close()
        if self._server:
            self._server.kill()
            self._server.wait()
        self._control = self._server = None
