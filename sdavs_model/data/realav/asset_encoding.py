"""From a file of a package to an asset: cut-outs trimmed and scaled, recordings without pauses and equally loud."""

import io

import numpy as np
from PIL import Image

from sdavs_model.data.core.audio import read_audio
from sdavs_model.data.core.clip import SAMPLE_RATE

SOUND_SECONDS = 6
NOMINAL_RMS = 0.08
BLOCK = SAMPLE_RATE // 100


def make_asset(
    kind: str, content: bytes, *, cut_out_side: int, background_side: int, effort: int = 6
) -> bytes:
    """What is stored for a source file: lossless WebP for a photo or background, FLAC for a sound or noise.

    `effort` is WebP's, from 0 to 6: small files take their time, the pixels are the same.

    Raises:
        ValueError: the content is no picture or sound.
    """
    if kind == "photo":
        return cut_out(content, cut_out_side, effort)
    if kind == "background":
        return background(content, background_side, effort)
    return sound(content)


def cut_out(content: bytes, side: int, effort: int) -> bytes:
    """A photograph with alpha: trimmed to what is visible, at most `side` pixels, lossless WebP."""
    image = Image.open(io.BytesIO(content)).convert("RGBA")
    image = image.crop(image.getchannel("A").point([255 * (value > 16) for value in range(256)]).getbbox())
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _webp(image, effort)


def background(content: bytes, side: int, effort: int) -> bytes:
    """A photograph, its short side `side` pixels, lossless WebP."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    scale = side / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return _webp(image.resize(size, Image.Resampling.LANCZOS), effort)


def _webp(image: Image.Image, effort: int) -> bytes:
    file = io.BytesIO()
    # exact=False lets the encoder blank the colour of invisible pixels: half the size, the same picture.
    image.save(file, "WEBP", lossless=True, quality=100, method=effort, exact=False)
    return file.getvalue()


def sound(content: bytes) -> bytes:
    """A recording: 16 kHz mono, pauses cut out, at most 6 s, one loudness, FLAC.

    Pauses go, because a second in which an object is marked must be audible; so a looped dog barks often.
    """
    waveform = read_audio(io.BytesIO(content))
    waveform = without_pauses(waveform - waveform.mean())[: SOUND_SECONDS * SAMPLE_RATE]
    gain = NOMINAL_RMS / np.sqrt(np.mean(waveform**2))
    gain = min(gain, 0.98 / np.abs(waveform).max())
    return _flac(np.round(waveform * gain * 32767).astype(np.int16))


def without_pauses(waveform: np.ndarray) -> np.ndarray:
    """Drop the blocks of 10 ms that are 26 dB below the sound's own level, but for 20 ms of each pause."""
    blocks = waveform[: len(waveform) // BLOCK * BLOCK].reshape(-1, BLOCK)
    power = np.mean(blocks**2, axis=1)
    audible = power > power.max() / 1000
    for _ in range(4):  # the level of what is kept decides what is kept
        audible = power > np.mean(power[audible]) / 400
    keep: list[int] = []
    quiet = 0
    for index, heard in enumerate(audible):
        quiet = 0 if heard else quiet + 1
        if quiet <= 2 and (keep or heard):
            keep.append(index)
    kept = blocks[keep]
    # Where blocks were dropped the two sides are ramped for 1 ms, so the cut does not click.
    ramp = np.linspace(0, 1, 16, dtype=np.float32)
    for position in np.flatnonzero(np.diff(keep) > 1):
        kept[position, -16:] *= ramp[::-1]
        kept[position + 1, :16] *= ramp
    return kept.reshape(-1)


def _flac(samples: np.ndarray) -> bytes:
    # Imported here: whoever only reads assets of WebP and 16 kHz wav needs no PyAV.
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono", format="s16")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()
