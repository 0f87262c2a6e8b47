"""Sound files of many kinds become one mono waveform at 16 kHz."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import av
import numpy as np
import pytest

from sdavs_model.data.core.audio import read_audio, write_wav


def tone(rate: int, seconds: float = 1.0) -> np.ndarray:
    return (12000 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)).astype(np.int16)


def encoded(container: str, codec: str, sample_format: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=44100, layout="stereo", format=sample_format)
        samples = np.repeat(tone(44100), 2)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
        frame.sample_rate = 44100
        resampler = av.AudioResampler(format=sample_format, layout="stereo", rate=44100)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            for packet in stream.encode(part):
                output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)
    return file.getvalue()


def test_a_wav_written_is_read_back_exactly(tmp_path: Path):
    write_wav(tmp_path / "tone.wav", tone(16000))
    np.testing.assert_array_equal(read_audio(tmp_path / "tone.wav"), tone(16000) / np.float32(32768))


def test_channels_are_averaged_and_the_rate_is_changed(tmp_path: Path):
    path = tmp_path / "stereo.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, 48000, 0, "NONE", ""))
        file.writeframes(np.stack([tone(48000), np.zeros(48000, np.int16)], axis=1).tobytes())
    sound = read_audio(path)
    assert sound.shape == (16000,)
    np.testing.assert_allclose(sound[500:-500], tone(16000)[500:-500] / 65536, atol=2e-3)


@pytest.mark.parametrize(
    ("container", "codec", "sample_format"),
    [
        ("flac", "flac", "s16"),
        ("wav", "pcm_f32le", "flt"),
        ("wav", "pcm_s24le", "s32"),
        ("mp4", "aac", "fltp"),
    ],
)
def test_whatever_ffmpeg_reads_is_accepted_from_an_open_file(container, codec, sample_format):
    sound = read_audio(io.BytesIO(encoded(container, codec, sample_format)))
    assert abs(len(sound) - 16000) < 1100  # AAC adds its priming samples
    assert 0.3 < np.abs(sound[4000:12000]).max() < 0.42


def test_a_file_without_sound_is_refused_with_its_name(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("no sound here")
    with pytest.raises(ValueError, match=r"notes\.txt: cannot be read as sound"):
        read_audio(path)
    with pytest.raises(ValueError, match=r"gone\.wav: no such sound file"):
        read_audio(tmp_path / "gone.wav")
