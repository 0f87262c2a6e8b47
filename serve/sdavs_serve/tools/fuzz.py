"""Fuzzing of the decoders with damaged files: none may crash the server, hang, leak, or yield invalid samples.

    python -m sdavs_serve.tools.fuzz --files 5000
    python -m sdavs_serve.tools.fuzz --files 1 --seed 4711        that one file again

The damage is drawn from the seed, so every file can be reproduced.
"""

import argparse
import io
import os
import sys
import tempfile
import time
import wave
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
import psutil
from PIL import Image
from sdavs_platform.config.serve import ServeConfig

from sdavs_serve.decoding.sandboxed_decoders import Sandbox, Upload
from sdavs_serve.errors import MediaError

LIMITS = ServeConfig(
    max_seconds=10, max_frames=20, timeout_s=20, decoder_cpu_s=5, decoder_memory_mb=400, max_pixels=1_000_000
)
LOOK_EVERY = 500
CODECS = {
    "mp4": ("libx264", "aac"),
    "mov": ("mpeg4", "pcm_s16le"),
    "webm": ("libvpx", "libopus"),
    "matroska": ("libx264", "flac"),
    "avi": ("mpeg4", "libmp3lame"),
    "mpegts": ("libx264", "aac"),
}

STILLS = ("PNG", "JPEG", "WEBP")


@dataclass(kw_only=True)
class Outcome:
    """Results of a run."""

    answers: Counter[str] = field(default_factory=Counter)
    """Number of files by kind of response."""
    slowest_s: float = 0.0
    slowest_seed: int = 0
    leaked_descriptors: int = 0
    left_processes: int = 0
    """Decoders that still run after the last response."""
    memory_mb: list[float] = field(default_factory=list)
    """Resident memory of this process and the one that decoders are forked from, every `LOOK_EVERY` files."""


def fuzz(*, num_files: int, seed: int, budget_s: float = float("inf")) -> Outcome:
    """Send `num_files` damaged files, or as many as fit into `budget_s` seconds.

    Raises:
        RuntimeError: a file caused anything but a refusal; the message names its seed.
    """
    originals = [small_video(kind) for kind in CODECS]
    outcome, sandbox = Outcome(), Sandbox(LIMITS)
    try:
        _answer(sandbox, _upload(np.random.default_rng(0), originals[0], None))  # starts the server
        before = len(os.listdir("/proc/self/fd"))
        deadline = time.monotonic() + budget_s
        for number in range(seed, seed + num_files):
            if time.monotonic() > deadline:
                break
            started = time.monotonic()
            rng = np.random.default_rng(number)
            original = originals[rng.integers(len(originals))]
            try:
                outcome.answers[_answer(sandbox, _upload(rng, original, damage))] += 1
            except Exception as error:
                raise RuntimeError(f"file of seed {number}: {error!r}") from error
            if (took := time.monotonic() - started) > outcome.slowest_s:
                outcome.slowest_s, outcome.slowest_seed = took, number
            if outcome.answers.total() % LOOK_EVERY == 0:
                held = [psutil.Process(number).memory_info().rss for number in (os.getpid(), sandbox.server)]
                outcome.memory_mb.append(sum(held) / 1e6)
        outcome.leaked_descriptors = len(os.listdir("/proc/self/fd")) - before
        decoders = psutil.Process(sandbox.server).children(recursive=True)
        outcome.left_processes = len(psutil.wait_procs(decoders, timeout=60)[1])
    finally:
        sandbox.close()
    return outcome


def damage(rng: np.random.Generator, content: bytes) -> bytes:
    """Bits flipped, runs replaced, cut out, repeated or cut off: one to eight times."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        at, length = int(rng.integers(len(data))), int(rng.integers(1, 64))
        match rng.integers(6):
            case 0:
                data[at] ^= 1 << rng.integers(8)
            case 1:
                data[at : at + length] = rng.bytes(len(data[at : at + length]))
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                data[at : at + 4] = bytes(4) if rng.integers(2) else b"\xff" * 4  # sizes and counts
            case _:
                del data[max(16, at) :]
        data = data or bytearray(b"\0")
    return bytes(data)


def small_video(kind: str) -> bytes:
    """Two seconds of noise in a container, with sound."""
    codec, sound_codec = CODECS[kind]
    rng, file = np.random.default_rng(1), io.BytesIO()
    rate = 48_000 if sound_codec == "libopus" else 16_000
    with av.open(file, "w", format=kind) as container:
        video: Any = container.add_stream(codec, rate=5)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        audio: Any = container.add_stream(sound_codec, rate=rate, layout="mono")
        for _ in range(10):
            picture = rng.integers(0, 255, (48, 64, 3), np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        mux_sound(container, audio, rng.integers(-8000, 8000, 2 * rate).astype(np.int16))
    return file.getvalue()


def mux_sound(container: av.container.OutputContainer, audio: Any, samples: np.ndarray) -> None:
    """Encode [N] int16 mono at the stream's rate, in the format and frame size of its codec."""
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts = audio.rate, 0
    resampler = av.AudioResampler(audio.format, "mono", audio.rate, frame_size=audio.frame_size)
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        container.mux(audio.encode(part))
    container.mux(audio.encode(None))


Damage = Callable[[np.random.Generator, bytes], bytes]


def _upload(rng: np.random.Generator, video: bytes, harm: Damage | None) -> Upload:
    """A video, or one time in four a picture and a sound file; damaged unless `harm` is None."""
    if harm is None or rng.integers(4):
        parts, kind = [video], "video"
    else:
        parts, kind = [_picture(rng), _sound(rng)], "pictures"
    if harm:
        hurt = int(rng.integers(len(parts)))
        parts[hurt] = harm(rng, parts[hurt])
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the upload
    file.write(b"".join(parts))
    file.flush()
    starts = np.cumsum([0, *(len(part) for part in parts)])
    places = [(int(start), len(part)) for start, part in zip(starts, parts, strict=False)]
    return Upload(file=file, kind=kind, parts=places, fps=1.0, threshold=0.5)  # type: ignore[arg-type]


def _answer(sandbox: Sandbox, upload: Upload) -> str:
    with upload.file:
        try:
            for sample in sandbox.samples(upload).samples():
                assert np.isfinite(sample.second).all(), "sound that is not finite"
        except MediaError as refusal:
            died = " (decoder died)" if "crashed on it" in refusal.detail else ""
            return f"{refusal.status} {refusal.kind}{died}"
    return "200"


def _picture(rng: np.random.Generator) -> bytes:
    file = io.BytesIO()
    pixels = rng.integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(file, STILLS[rng.integers(len(STILLS))])
    return file.getvalue()


def _sound(rng: np.random.Generator) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(rng.integers(-8000, 8000, 16_000).astype(np.int16).tobytes())
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--files", type=int, default=2000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first one (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    flags = parser.parse_args()
    outcome = fuzz(num_files=flags.files, seed=flags.seed, budget_s=flags.seconds)
    for answer, count in outcome.answers.most_common():
        print(f"{count:6d}  {answer}")
    print(f"slowest: {outcome.slowest_s:.1f} s (seed {outcome.slowest_seed})")
    print(f"descriptors left open: {outcome.leaked_descriptors}; decoders left: {outcome.left_processes}")
    print("memory, MB: " + ", ".join(f"{held:.0f}" for held in outcome.memory_mb))
    sys.exit(1 if outcome.leaked_descriptors or outcome.left_processes else 0)


if __name__ == "__main__":
    main()
