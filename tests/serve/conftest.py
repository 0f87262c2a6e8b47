"""Real uploads for the serving tests, written here with PyAV, and the one endpoint that they all ask."""

import io
import wave
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import av
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from sdavs_serve.tools.fuzz import mux_sound
from stack import Stack, running_stack
from visitor import CHROMIUM, opened_page
from waiting import patience

RATE = 16_000

RUNNING = pytest.StashKey[ExitStack]()
"""What `stack` has started."""


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


@pytest.fixture(scope="session")
def make_video() -> Callable[..., bytes]:
    return write_video


@pytest.fixture(scope="session")
def make_wav() -> Callable[..., bytes]:
    return write_wav


@pytest.fixture(scope="session")
def make_png() -> Callable[..., bytes]:
    return write_png


@pytest.fixture(scope="session")
def stack(request) -> Iterator[Stack]:
    with ExitStack() as running:
        request.session.stash[RUNNING] = running
        yield running.enter_context(running_stack())


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    # After the last test that asks the endpoint, and not after the last of all: the others need the machine.
    later = item.session.items[item.session.items.index(item) + 1 :]
    if RUNNING in item.session.stash and not any("stack" in other.fixturenames for other in later):
        item.session.stash[RUNNING].close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Not for the session: while it is there, the thread has an event loop, and no test could start another.
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    expect.set_options(timeout=patience(30_000))
    with sync_playwright() as playwright:
        # The sandbox wants rights that root in a container has not.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, stack) -> Iterator[Page]:
    """The page on a desk."""
    key = stack.keys_by_scope["admin"]
    yield from opened_page(browser, stack.address, key, viewport={"width": 1440, "height": 900})


@pytest.fixture
def on_phone(browser, stack) -> Iterator[Page]:
    """The same in a hand, in the dark, without motion."""
    yield from opened_page(
        browser,
        stack.address,
        stack.keys_by_scope["admin"],
        viewport={"width": 390, "height": 844},
        is_mobile=True,
        has_touch=True,
        color_scheme="dark",
        reduced_motion="reduce",
    )
