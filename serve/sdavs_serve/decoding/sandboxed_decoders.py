"""The ingress's side of decoding: an upload goes to a decoder process, samples come back.

A decoder that dies is blamed on the upload: its client gets an error and nobody else notices.
"""

import contextlib
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Literal

import numpy as np
from sdavs_platform.config.serve import ServeConfig

from sdavs_serve.decoding import protocol
from sdavs_serve.decoding.decoder import Job, MediaLimits
from sdavs_serve.decoding.media import Sample, Timeline
from sdavs_serve.errors import MediaError

logger = logging.getLogger("ray.serve")

UploadKind = Literal["video", "pictures"]

SECOND = 64_000
"""Bytes of a second of sound, 16 kHz float32."""

SOUND_BLOCK = 64_000_000
"""Bytes that one block of sound may have."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A video, or pictures and a sound file, in one unnamed file on disk: memory does not grow with it.

    No path or file name of the client is kept.
    """

    file: IO[bytes]
    kind: UploadKind
    parts: list[tuple[int, int]]
    """Offset and length in the file: of the video or of each picture and, last, of the sound (optional for video)."""
    fps: float
    """Frames sampled a second."""
    threshold: float
    """Probability above which a pixel belongs to the mask of a binary model."""
    decodings: "list[Decoding]" = field(default_factory=list)
    """All jobs that were started for it."""
    stopped: threading.Event = field(default_factory=threading.Event)
    """Its client has disconnected: a thread that still writes the response starts no further job."""

    def stop_decoding(self) -> None:
        """End all its jobs, for good."""
        self.stopped.set()
        for decoding in self.decodings:
            decoding.close()


class Decoding:
    """One running job. Iterate in a thread; `close`, from any thread, ends it and its decoder."""

    def __init__(self, connection: socket.socket, job: Job, field: str) -> None:
        self._connection = connection
        self._job = job
        self._field = field
        self._closed = False
        self.timeline: Timeline | None = None
        """Of a video, after its last sample."""

    def samples(self) -> Iterator[Sample]:
        """The samples of the upload, in order of time. Raises MediaError as soon as something is wrong."""
        limits = self._job.limits
        for index, message in enumerate(self._messages(max_array=max(3 * limits.max_pixels, SECOND))):
            try:
                if index >= limits.max_frames:
                    raise ValueError(f"more than {limits.max_frames} samples")
                sample = _sample(message, max_pixels=limits.max_pixels)
            except (ValueError, KeyError, TypeError) as error:
                logger.error("a decoder is compromised or has a bug: %s", error)
                raise self._death(0) from error
            yield sample

    def sound(self) -> Iterator[np.ndarray]:
        """Blocks [2, N] float32 at 48 kHz. Raises MediaError as soon as something is wrong."""
        for message in self._messages(max_array=SOUND_BLOCK):
            yield message.arrays[0]

    def close(self) -> None:
        """End the job. A decoder that is still at work is killed."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _messages(self, *, max_array: int) -> Iterator[protocol.Message]:
        try:
            try:
                protocol.send(self._connection, protocol.Message(what="job", body=self._job.to_json()))
            except OSError as error:  # the decoder, or our side of the connection, has ended already
                raise self._death(0) from error
            while (message := self._receive(max_array)).what != "end":
                if message.what == "error":
                    raise MediaError(**message.body)
                if message.what == "died":
                    raise self._death(message.body["signal"])
                yield message
            self.timeline = Timeline(**message.body) if message.body else None
        finally:
            self.close()

    def _receive(self, max_array: int) -> protocol.Message:
        try:
            return protocol.receive(self._connection, max_array=max_array)
        except (protocol.Broken, TimeoutError) as error:
            if not self._closed:
                logger.warning("a decoder has ended unexpectedly: %s", error)
            raise self._death(0) from error

    def _death(self, number: int) -> MediaError:
        limits = self._job.limits
        if number == signal.SIGXCPU:
            detail = f"takes more than {limits.decoder_cpu_s:g} s of processor time to decode"
            return MediaError("too_large", detail, field=self._field, limit="decoder_cpu_s")
        if number == signal.SIGALRM:
            detail = f"takes more than {limits.timeout_s:g} s to decode"
            return MediaError("too_large", detail, field=self._field, limit="timeout_s")
        name = signal.Signals(number).name if number else "no signal"
        return MediaError("corrupt", f"the decoder crashed while reading it ({name})", field=self._field)


def _sample(message: protocol.Message, *, max_pixels: int) -> Sample:
    """The sample of a message. Its sizes decide what models allocate, so a decoder is not trusted with them.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    picture, second, *displayed = message.arrays
    size, time_s = message.body["size"], message.body["time_s"]
    for pixels in (picture, *displayed):
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"a picture of {pixels.dtype} {pixels.shape}")
    if second.dtype != np.float32 or second.ndim != 1 or second.nbytes > SECOND:
        raise ValueError(f"a second of {second.dtype} {second.shape}")
    if size is not None:
        height, width = size
        if not (type(height) is type(width) is int and min(size) > 0 and height * width <= max_pixels):
            raise ValueError(f"a size of {size}")
        size = (height, width)
    if not 0 <= time_s < math.inf:
        raise ValueError(f"a time of {time_s}")
    shown = displayed[0] if displayed else None
    return Sample(time_s=time_s, picture=picture, second=second, size=size, displayed=shown)


class Sandbox:
    """Starts decoders. Each ingress replica has one."""

    def __init__(self, config: ServeConfig) -> None:
        self._limits = MediaLimits.of(config)
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._server: subprocess.Popen | None = None

    def samples(
        self, upload: Upload, *, squash_to: int | None = None, keep_pictures: bool = False
    ) -> Decoding:
        """Start decoding an upload.

        Args:
            upload: the file.
            squash_to, keep_pictures: as in `Job`.
        """
        return self._start(upload, upload.kind, squash_to=squash_to, keep_pictures=keep_pictures)

    def sound(self, upload: Upload, *, until: float) -> Decoding:
        """Start decoding its sound again, for an overlay."""
        return self._start(upload, "sound", until=until)

    @property
    def server(self) -> int:
        """Process id of the fork server, which starts with the first upload."""
        assert self._server
        return self._server.pid

    def close(self) -> None:
        """Stop the fork server."""
        with self._lock:
            self._stop()

    def _start(self, upload: Upload, what: Any, **options: Any) -> Decoding:
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
                    # The fork server is gone. No upload can cause that; somebody killed it.
                    self._stop()
                    if attempt:
                        raise
        job = Job(what=what, parts=upload.parts, fps=upload.fps, limits=self._limits, **options)
        decoding = Decoding(ours, job, "video" if upload.kind == "video" else "audio")
        upload.decodings.append(decoding)
        if upload.stopped.is_set():
            decoding.close()
        return decoding

    def _launch(self) -> None:
        ours, theirs = socket.socketpair()
        # None of our variables is passed on: some are addresses with passwords.
        environment = {
            "PATH": os.defpath,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OPENBLAS_NUM_THREADS": "1",
        }
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "sdavs_serve.decoding.fork_server", str(theirs.fileno())],
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
