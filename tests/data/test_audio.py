"""Sound files of many kinds become one mono waveform at 16 kHz."""

import io
import struct
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


def wav_bytes(
    samples: bytes,
    *,
    tag: int = 1,
    bits: int = 16,
    riff: bytes = b"RIFF",
    size: int | None = None,
    extensible: bool = False,
    valid_bits: int | None = None,
    frame: int | None = None,
    before: bytes = b"",
) -> bytes:
    """A mono wav at 16 kHz with the given header."""
    frame = bits // 8 if frame is None else frame
    form = struct.pack("<HHIIHH", 0xFFFE if extensible else tag, 1, 16000, 16000 * frame, frame, bits)
    if extensible:
        guid = bytes.fromhex("000000001000800000aa00389b71")
        form += struct.pack("<HHIH", 22, valid_bits or bits, 4, tag) + guid
    chunks = before + b"fmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", len(samples) if size is None else size) + samples
    return riff + struct.pack("<I", 0xFFFFFFFF if size else 4 + len(chunks)) + b"WAVE" + chunks


SAMPLES = tone(16000).tobytes()
DEEP = np.concatenate(
    [np.zeros((16000, 1), np.uint8), tone(16000).view(np.uint8).reshape(-1, 2)], 1
).tobytes()
FLOATS = tone(16000) / np.float32(32768)

WAVS = {
    "from FFmpeg in a pipe": wav_bytes(SAMPLES, size=0xFFFFFFFF),
    "from sox in a pipe": wav_bytes(SAMPLES, size=0x7FFFFFFF - 36),
    "from arecord in a pipe": wav_bytes(SAMPLES, size=0x80000000),
    "of a recorder that was switched off": wav_bytes(SAMPLES[2:], size=0),
    "RF64": wav_bytes(
        SAMPLES,
        riff=b"RF64",
        size=0xFFFFFFFF,
        before=b"ds64" + struct.pack("<IQQQI", 28, 0, len(SAMPLES), 16000, 0),
    ),
    "RF64 from a pipe": wav_bytes(
        SAMPLES,
        riff=b"RF64",
        size=0xFFFFFFFF,
        before=b"ds64" + struct.pack("<IQQQI", 28, *[2**64 - 1] * 3, 0),
    ),
    "RF64 whose sizes were never written": wav_bytes(
        SAMPLES, riff=b"RF64", size=0xFFFFFFFF, before=b"ds64\x1c\0\0\0" + bytes(28)
    ),
    "BW64": wav_bytes(SAMPLES, riff=b"BW64"),
    "with the size of the whole file": wav_bytes(SAMPLES, size=len(SAMPLES) + 44),
    "with the size of all behind the first eight bytes": wav_bytes(SAMPLES, size=len(SAMPLES) + 36),
    "with a wrong size of a frame": wav_bytes(SAMPLES, frame=4),
    "extensible": wav_bytes(SAMPLES, extensible=True),
    "extensible of 24 bit in 32": wav_bytes(
        (tone(16000).astype("<i4") << 16).tobytes(), bits=32, valid_bits=24, extensible=True
    ),
    "extensible of 24 bit": wav_bytes(DEEP, bits=24, extensible=True),
    "of 24 bit": wav_bytes(DEEP, bits=24),
    "of floats": wav_bytes(FLOATS.tobytes(), tag=3, bits=32),
    "extensible of floats": wav_bytes(FLOATS.tobytes(), tag=3, bits=32, extensible=True),
    "of doubles": wav_bytes(FLOATS.astype(np.float64).tobytes(), tag=3, bits=64),
    "with a chunk of odd length before the sound": wav_bytes(SAMPLES, before=b"LIST\x03\0\0\0abc\0"),
    "with a chunk of odd length and nothing behind it": wav_bytes(SAMPLES, before=b"LIST\x03\0\0\0abc"),
    "with tags behind the sound": wav_bytes(SAMPLES) + b"LIST\x04\0\0\0abcd",
}


@pytest.mark.parametrize("kind", WAVS)
def test_a_wav_of_every_kind_is_read_exactly(tmp_path, kind):
    path = tmp_path / "x.wav"
    path.write_bytes(WAVS[kind])
    expected = FLOATS[1:] if "switched off" in kind else FLOATS
    np.testing.assert_array_equal(read_audio(path), expected)
    np.testing.assert_array_equal(read_audio(io.BytesIO(WAVS[kind])), expected)


def test_samples_that_are_not_numbers_and_big_endian_ones_are_refused(tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(wav_bytes(np.full(16000, np.nan, np.float32).tobytes(), tag=3, bits=32))
    with pytest.raises(ValueError, match=r"x\.wav: holds samples that are not numbers"):
        read_audio(path)
    path.write_bytes(wav_bytes(SAMPLES, riff=b"RIFX"))
    with pytest.raises(ValueError, match=r"x\.wav: a wav of big-endian samples"):
        read_audio(path)


@pytest.mark.parametrize(("codec", "layout"), [("libopus", "7.1"), ("pcm_s24le", "hexadecagonal")])
def test_sound_of_eight_and_more_channels_is_averaged(tmp_path, codec, layout):
    path = tmp_path / "x.mka"
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=48000, layout=layout)
        num_channels = stream.codec_context.layout.nb_channels
        samples = np.zeros((48000, num_channels), np.int16)
        samples[:, 1] = tone(48000)
        for block in samples.reshape(50, 1, -1):
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout=layout)
            frame.sample_rate = 48000
            for packet in stream.encode(frame):
                output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)
    loudest = 12000 / 32768 / num_channels
    assert np.abs(read_audio(path)[1000:-1000]).max() == pytest.approx(loudest, rel=0.15)


def test_a_wav_whose_header_claims_an_impossible_rate_is_refused(tmp_path):
    path = tmp_path / "x.wav"
    content = bytearray(wav_bytes(SAMPLES))
    content[24:28] = (2**32 - 17).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.wav: a sample rate of 4294967279 Hz; at most 768000 are read"):
        read_audio(path)


def test_a_wav_that_lacks_samples_holds_none_or_is_empty_is_refused(tmp_path):
    path = tmp_path / "x.wav"
    for content, words in (
        (wav_bytes(SAMPLES)[:-2], "truncated wav; it ends before its 16000 samples"),
        (wav_bytes(b""), "holds no sound"),
        (wav_bytes(b"") + b"LIST\x04\0\0\0abcd", "holds no sound"),
        (b"", "is empty"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"x\.wav: {words}"):
            read_audio(path)


@pytest.mark.parametrize("rate", [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000])
@pytest.mark.parametrize("tagged", [False, True])
def test_mp3_of_every_rate_is_read_with_and_without_a_header_in_front(tmp_path, rate, tagged):
    path = tmp_path / "x.mp3"
    options = {} if tagged else {"id3v2_version": "0", "write_xing": "0"}
    with av.open(str(path), "w", format="mp3", options=options) as output:
        stream = output.add_stream("libmp3lame", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(rate, 2)[None], format="s16", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format, "mono", rate, frame_size=stream.frame_size)
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            output.mux(stream.encode(part))
    for source in (path, io.BytesIO(path.read_bytes())):
        sound = read_audio(source)
        assert 2 <= len(sound) / 16000 < 2.4
        spectrum = np.abs(np.fft.rfft(sound[8000:24000]))
        assert abs(int(np.argmax(spectrum)) - 440) <= 1


def test_the_sound_of_a_video_with_other_tracks_is_its_sound(tmp_path):
    lines = tmp_path / "x.srt"
    lines.write_text("1\n00:00:00,500 --> 00:00:59,000\nThe end\n")
    with av.open(str(lines)) as subtitles, av.open(str(tmp_path / "x.mkv"), "w") as output:
        output.add_stream_from_template(subtitles.streams[0])
        cover = output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 16, 16, "yuvj420p"
        stream = output.add_stream("pcm_s16le", rate=16000, layout="mono")
        output.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        for packet in subtitles.demux():
            if packet.dts is not None:
                packet.stream = output.streams[0]
                output.mux(packet)
        frame = av.AudioFrame.from_ndarray(tone(16000)[None], format="s16", layout="mono")
        frame.sample_rate = 16000
        output.mux([*stream.encode(frame), *cover.encode(None), *stream.encode(None)])
    with av.open(str(tmp_path / "x.mkv")) as written:
        assert [stream.type for stream in written.streams] == ["subtitle", "video", "audio"]
    np.testing.assert_array_equal(read_audio(tmp_path / "x.mkv"), FLOATS)
