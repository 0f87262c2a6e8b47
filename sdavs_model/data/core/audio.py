"""Sound files -> one mono waveform at the model's sample rate."""

import wave
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np

from sdavs_model.data.core.clip import SAMPLE_RATE
from sdavs_model.data.core.wav import NotPCM, read_wav

if TYPE_CHECKING:
    import av

MAX_RATE = 768_000
"""Samples per second of a file. Our choice: sixteen times 48 kHz, the highest rate of any recorder; the filter that
changes the rate grows with it, so a damaged header could ask for all the memory."""

AfterSound = Literal["silence", "repeat"]
"""What follows a sound that is shorter than its frames: silence, or its last second again and again."""


def read_audio(source: str | Path | BinaryIO, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Read the sound of a file: PCM wav by itself, anything else with PyAV.

    Several channels are averaged, as VGGish's own reader does.

    Args:
        source: a path, or an open seekable binary file (an upload); video files give their first sound track.
        sample_rate: samples per second of the result.

    Returns:
        [N] float32 in [-1, 1], mono.

    Raises:
        ValueError: the file is missing, corrupt, cut short or holds no sound; the message names it.
    """
    name = _name(source)
    if isinstance(source, str | Path):
        if not Path(source).is_file():
            raise ValueError(f"{name}: no such sound file")
        with open(source, "rb") as file:
            channels, rate = _read(file, name)
    else:
        channels, rate = _read(source, name)
    if rate > MAX_RATE:
        raise ValueError(f"{name}: a sample rate of {rate} Hz; at most {MAX_RATE} are read")
    if channels.shape[1] == 0:
        raise ValueError(f"{name}: holds no sound")
    if not np.isfinite(channels).all():
        raise ValueError(f"{name}: holds samples that are not numbers")
    return resample(channels.mean(axis=0, dtype=np.float32), rate, sample_rate)


def resample(waveform: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Change the sample rate of [N] float32 with torchaudio's windowed sinc; the same rate is free."""
    if rate == new_rate:
        return waveform
    # Imported here: it takes seconds, and most sound in training is at 16 kHz already.
    import torch
    from torchaudio.functional import resample as sinc_resample

    return sinc_resample(torch.from_numpy(waveform), rate, new_rate).numpy()


def num_seconds_of(waveform: np.ndarray) -> int:
    """Whole seconds of sound: videos are not cut at exact seconds, so half a second at the end counts as one."""
    return int(len(waveform) / SAMPLE_RATE + 0.5)


def whole_seconds(waveform: np.ndarray, num_seconds: int, path: Path, *, then: AfterSound) -> np.ndarray:
    """[num_seconds * 16000] float32; a half second that is missing at the end is silence.

    Args:
        waveform: [N] float32 at 16 kHz.
        num_seconds: how many there must be.
        path: its file, for messages.
        then: what follows if there are fewer.

    Raises:
        ValueError: there is not even one; names the file.
    """
    heard = num_seconds_of(waveform)
    if not heard:
        raise ValueError(f"{path}: {len(waveform) / SAMPLE_RATE:.2f} s of sound for {num_seconds} frames")
    aligned = np.zeros(num_seconds * SAMPLE_RATE, np.float32)
    aligned[: len(waveform)] = waveform[: len(aligned)]
    if then == "repeat" and heard < num_seconds:
        seconds = aligned.reshape(num_seconds, SAMPLE_RATE)
        seconds[heard:] = seconds[heard - 1]
    return aligned


def write_wav(path: Path, samples: np.ndarray, sample_rate: int = SAMPLE_RATE) -> None:
    """Write [N] int16 as a mono PCM wav."""
    assert samples.dtype == np.int16
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(samples.astype("<i2").tobytes())


def _read(file: BinaryIO, name: str) -> tuple[np.ndarray, int]:
    """[C, N] float32 and the rate."""
    begin = file.tell()
    if not file.read(1):
        raise ValueError(f"{name}: is empty")
    file.seek(begin)
    try:
        return read_wav(file, name)
    except NotPCM:
        file.seek(begin)
        return _read_with_pyav(file, name)


def _read_with_pyav(file: BinaryIO, name: str) -> tuple[np.ndarray, int]:
    """[C, N] float32 and the rate of anything FFmpeg can decode."""
    # Imported here: plain wav, the common case, works on a machine without PyAV.
    import av

    blocks = []
    try:
        with av.open(file, "r") as container:
            if not container.streams.audio:
                raise ValueError(f"{name}: holds no sound track")
            stream = container.streams.audio[0]
            # Packed samples: PyAV 18 crashes when it turns planes of eight or more channels into an array.
            to_float = av.AudioResampler(format="flt")
            for frame in container.decode(stream):
                blocks += [deinterleaved(part) for part in to_float.resample(frame)]
            rate = stream.rate
    except av.FFmpegError as error:
        raise ValueError(f"{name}: cannot be read as sound ({error.strerror})") from error
    if not blocks:
        raise ValueError(f"{name}: holds no sound")
    return np.concatenate(blocks, axis=1), rate


def deinterleaved(frame: "av.AudioFrame") -> np.ndarray:
    """[C, N] float32, the samples of a frame whose format is packed float ("flt"); a view of the frame."""
    channels = frame.layout.nb_channels
    # `frame.to_ndarray` copies, and takes longer for a block of some hundredths of a second than decoding it.
    samples = np.frombuffer(memoryview(frame.planes[0]), np.float32, frame.samples * channels)
    return samples.reshape(-1, channels).T


def _name(source: str | Path | BinaryIO) -> str:
    return str(source) if isinstance(source, str | Path) else str(getattr(source, "name", "the sound"))
