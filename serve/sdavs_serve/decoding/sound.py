"""The sound of an upload: one second around any moment, at 16 kHz mono, read once from front to back.

Memory does not grow with the length of the sound. `sdavs_model.data.core.audio.read_audio` reads whole trusted files;
an untrusted upload is decoded only as far as it is needed.
"""

import itertools
from collections.abc import Iterator

import av
import numpy as np

from sdavs_model.data.core.audio import MAX_RATE, deinterleaved
from sdavs_model.data.core.clip import SAMPLE_RATE
from sdavs_serve.decoding.containers import reading
from sdavs_serve.errors import MediaError

MIN_RATE = 4_000
"""Below it, resampling to 16 kHz would let a small file unfold into a huge one. Our choice: half of the
telephone's 8 kHz, the lowest rate that real recordings have."""

MAX_GAP_S = 0.05
"""Time stamps of containers jitter; only gaps above 50 ms are real and become silence."""


class SoundTrack:
    """The first sound track of an open container, on the container's own clock.

    Raises:
        MediaError: there is no sound track ("no_sound") or its sample rate is not between `MIN_RATE` and `MAX_RATE`
            ("unsupported").
    """

    def __init__(self, container: av.container.InputContainer, *, start: float, field: str) -> None:
        """
        Args:
            container: open for this reader alone; it is decoded from its current position.
            start: the container's time that counts as 0 s.
            field: form field that the file came in, for messages.
        """
        if not container.streams.audio:
            raise MediaError(
                "no_sound",
                "the file has no sound track; SDAVS segments what is making the sound",
                field=field,
            )
        rate = container.streams.audio[0].rate
        if not MIN_RATE <= rate <= MAX_RATE:
            raise MediaError(
                "unsupported", f"a sample rate of {rate} Hz; allowed: {MIN_RATE} to {MAX_RATE}", field=field
            )
        self._field = field
        self._blocks = self._decode(container, start)
        self._buffer = np.zeros(0, np.float32)
        self._position = 0  # of the buffer's first sample on the clock
        self.num_decoded = 0
        """Samples decoded so far, at 16 kHz; silence that fills gaps does not count."""

    def second_around(self, centre: float) -> np.ndarray:
        """[16000] float32 in [-1, 1], from `centre` - 0.5 s on; silence before the sound begins and after it ends.

        Sound before that moment is dropped, so moments must ascend.
        """
        first = round((centre - 0.5) * SAMPLE_RATE)
        while self._end < first + SAMPLE_RATE and self._read(first + SAMPLE_RATE):
            self._forget(first)
        self._forget(first)
        second = np.zeros(SAMPLE_RATE, np.float32)
        offset = self._position - first  # above 0 only before the sound's very beginning
        heard = self._buffer[: max(0, SAMPLE_RATE - offset)]
        second[offset : offset + len(heard)] = heard
        return second

    def lasts_beyond(self, moment: float) -> bool:
        """Whether there is sound after a moment, which is later than any that was asked for before."""
        while self._end <= moment * SAMPLE_RATE:
            if not self._read(moment * SAMPLE_RATE + 1):
                return False
        return True

    def read_to_end(self, *, no_further_than: float) -> float:
        """Where the sound ends, in seconds; the search stops at `no_further_than`."""
        while self._end < no_further_than * SAMPLE_RATE and self._read(no_further_than * SAMPLE_RATE):
            self._forget(self._end)
        return self._end / SAMPLE_RATE

    @property
    def _end(self) -> int:
        """Of what has been read, in samples on the clock."""
        return self._position + len(self._buffer)

    def _read(self, end: float) -> bool:
        """Read on up to `end`, in samples on the clock, but at most about a second; False if there is no more."""
        blocks: list[np.ndarray] = []
        missing = min(end - self._end, SAMPLE_RATE)
        while missing > 0 and (block := next(self._blocks, None)) is not None:
            blocks.append(block)
            missing -= block.shape[1]
        # Together: a codec's block has some hundredths of a second, and calls of numpy cost more than its arithmetic.
        parts = [np.concatenate([*alike], axis=1) for _, alike in itertools.groupby(blocks, key=len)]
        if not all(np.isfinite(part).all() for part in parts):
            raise MediaError("corrupt", "holds samples that are not numbers", field=self._field)
        # The layout is kept: FFmpeg's own mix-down of stereo is 3 dB louder than the mean that training uses.
        mono = [part.mean(axis=0, dtype=np.float32) for part in parts]
        self._buffer = np.concatenate([self._buffer, *mono])
        return bool(blocks)

    def _forget(self, first: int) -> None:
        drop = min(max(0, first - self._position), len(self._buffer))
        self._buffer = self._buffer[drop:]
        self._position += drop

    def _decode(self, container: av.container.InputContainer, start: float) -> Iterator[np.ndarray]:
        """Blocks [C, N] float32 that follow each other without gaps from 0 s on."""
        with reading(self._field):
            blocks = gapless(container, start=start, rate=SAMPLE_RATE, layout=None, field=self._field)
            for block, heard in blocks:
                if heard:
                    self.num_decoded += block.shape[1]
                yield block


class PacketTrack:
    """The length of the first sound track of an open container, if it has one. Nothing is decoded."""

    def __init__(self, container: av.container.InputContainer, *, start: float, field: str) -> None:
        """
        Args:
            container: open for this reader alone.
            start: the container's time that counts as 0 s.
            field: form field that the file came in, for messages.
        """
        self._container = container
        self._start = start
        self._field = field
        self._end: float | None = None

    def lasts_beyond(self, moment: float) -> bool:
        """Whether there is sound after a moment."""
        return self.read_to_end(no_further_than=moment) > moment

    def read_to_end(self, *, no_further_than: float) -> float:
        """Where the sound ends, in seconds, wherever that is; 0 without sound."""
        if self._end is None:
            with reading(self._field):
                self._end = self._last_end()
        return self._end

    def _last_end(self) -> float:
        end = 0.0
        if self._container.streams.audio:
            for packet in self._container.demux(self._container.streams.audio[0]):
                if packet.pts is not None and packet.time_base:
                    ends = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    end = max(end, ends - self._start)
        return end


def gapless(
    container: av.container.InputContainer, *, start: float, rate: int, layout: str | None, field: str
) -> Iterator[tuple[np.ndarray, bool]]:
    """Blocks [C, N] float32 that follow each other without gaps from 0 s on, and whether each was in the file.

    Args:
        container: decoded from its current position.
        start: the container's time that counts as 0 s.
        rate: samples a second.
        layout: "stereo" mixes as a player does; None keeps the channels.
        field: form field that the file came in, for messages.

    Raises:
        MediaError: the sound changes its format midway.
    """
    # Packed samples: PyAV 18 crashes when it turns planes of eight or more channels into an array.
    resampler = av.AudioResampler(format="flt", rate=rate, layout=layout)
    end, num_channels = 0, 2 if layout == "stereo" else 1
    for frame in container.decode(audio=0):
        if frame.time is not None:
            due = round((frame.time - start) * rate)
            if due - end > rate * MAX_GAP_S:
                for silence in _silence(due - end, piece=rate):
                    yield np.repeat(silence, num_channels, axis=0), False
                end = due
        for block in _resample(resampler, frame, field):
            end, num_channels = end + block.shape[1], block.shape[0]
            yield block, True
    if end:
        for block in _resample(resampler, None, field):
            yield block, True


def _silence(num_samples: int, *, piece: int) -> Iterator[np.ndarray]:
    # In pieces: a forged time stamp may claim years of it.
    while num_samples > 0:
        size = min(num_samples, piece)
        yield np.zeros((1, size), np.float32)
        num_samples -= size


def _resample(resampler: av.AudioResampler, frame: av.AudioFrame | None, field: str) -> Iterator[np.ndarray]:
    try:
        parts = resampler.resample(frame)
    except ValueError as error:
        raise MediaError("corrupt", f"the sound changes its format midway ({error})", field=field) from error
    for part in parts:
        yield deinterleaved(part)
