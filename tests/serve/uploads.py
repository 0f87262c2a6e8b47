"""Real videos, recordings and pictures as a client uploads them, written here with PyAV."""

import functools
import io
import wave

import av
import numpy as np
from PIL import Image
from sdavs_serve.tools.fuzz import mux_sound

RATE = 16_000


def picture(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """[H, W, 3]: a bright square that moves, on a grey that tells which of nine frames it is."""
    drawn = np.full((height, width, 3), 20 + 25 * (index % 9), np.uint8)
    left = 4 + 6 * (index % 7)
    drawn[10:26, left : left + 16] = (250, 200, 40)
    return drawn


def chirp(seconds: float, rate: int = RATE) -> np.ndarray:
    """[N] float32: a tone that rises by 400 Hz a second, so that every moment sounds different."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * (200 + 200 * time) * time)).astype(np.float32)


@functools.cache
def write_video(seconds: int = 3, *, kind: str = "mp4", fps: int = 1, with_sound: bool = True) -> bytes:
    """A video of `seconds` seconds whose second i shows `picture(i)` and sounds as `chirp` does."""
    codec, sound_codec = {
        "mp4": ("libx264", "aac"),
        "mov": ("mpeg4", "pcm_s16le"),
        "webm": ("libvpx", "libopus"),
        "matroska": ("libx264", "pcm_s16le"),
    }[kind]
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        video = container.add_stream(codec, rate=fps)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        if with_sound:
            rate = 48_000 if sound_codec == "libopus" else RATE
            audio = container.add_stream(sound_codec, rate=rate, layout="mono")
        for index in range(seconds * fps):
            frame = av.VideoFrame.from_ndarray(picture(index // fps), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if with_sound:
            mux_sound(container, audio, np.int16(chirp(seconds, rate) * 32767))
    return file.getvalue()


def write_wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    """A mono 16 bit wav file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(np.int16(samples * 32767).tobytes())
    return file.getvalue()


def write_png(pixels: np.ndarray) -> bytes:
    """A png file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
