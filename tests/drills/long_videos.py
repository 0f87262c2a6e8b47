"""Send videos of growing length to an endpoint and watch the memory of every process that has to do with them.

    .venv/bin/python tests/drills/long_videos.py
    .venv/bin/python tests/drills/long_videos.py --http-only --minutes 1 10
    .venv/bin/python tests/drills/long_videos.py --minutes 1 60 --accept video/mp4
    .venv/bin/python tests/drills/long_videos.py --minutes 1 10 --height 1080 --fps 30

Starts an endpoint of its own: a whole one with Ray, MLflow and a model; with --http-only its HTTP side and the decoders
and made-up masks. Prints, for each length, how long the first and the last piece of the response took, and the most
memory that each part held, in MB.
"""

import argparse
import contextlib
import io
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import httpx
import numpy as np
import psutil

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in ("", "serve"))

from targets import Target, http_only, whole_endpoint
from uploads import chirp, picture, write_video

LIMITS = {
    "max_seconds": 7200,
    "max_frames": 7200,
    "max_upload_mb": 4000,
    "timeout_s": 3600,
    "decoder_cpu_s": 600,
    "reuse_mb": 0,
}
LOOK_S = 0.05


@contextmanager
def watched(target: Target) -> Iterator[dict[str, float]]:
    """Peaks of resident memory, in MB, by part; all decoders that ran together are one."""
    peaks: dict[str, float] = defaultdict(float)
    parts, over = target.processes(), threading.Event()

    def memory(processes: list[psutil.Process]) -> float:
        total = 0.0
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss / 1e6
        return total

    def look() -> None:
        while not over.wait(LOOK_S):
            decoders = []
            for part, processes in parts.items():
                peaks[part] = max(peaks[part], memory(processes))
                decoders += [child for process in processes for child in process.children(recursive=True)]
            peaks["decoders"] = max(peaks["decoders"], memory(decoders))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def long_video(minutes: int, *, height: int, fps: int) -> bytes:
    """An mp4 of 16:9. One minute of pictures is encoded, and shown again and again, so that it is made quickly."""
    minute, whole, rate = io.BytesIO(), io.BytesIO(), 16_000
    with av.open(minute, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = height, 2 * round(height * 8 / 9), "yuv420p"
        for index in range(60 * fps):
            shown = picture(index // fps, stream.height, stream.width)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode(None))
    minute.seek(0)
    sound = np.int16(chirp(60) * 32767)[None]
    with av.open(minute) as source, av.open(whole, "w", format="mp4") as container:
        pictures = container.add_stream_from_template(source.streams.video[0])
        audio = container.add_stream("aac", rate=rate, layout="mono")
        packets = [packet for packet in source.demux(video=0) if packet.dts is not None]
        length = round(60 / packets[0].time_base)
        for number in range(minutes):
            for packet in packets:
                copy = av.Packet(bytes(packet))
                copy.time_base, copy.is_keyframe, copy.stream = packet.time_base, packet.is_keyframe, pictures
                copy.pts, copy.dts = packet.pts + number * length, packet.dts + number * length
                container.mux(copy)
            frame = av.AudioFrame.from_ndarray(sound, format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, number * 60 * rate
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return whole.getvalue()


def ask(target: Target, key: str, video: bytes, accept: str) -> tuple[float, float, int]:
    """Seconds to the first masks (or the first piece of another form) and to the end, and the bytes of the response."""
    headers = {"Authorization": f"Bearer {key}", "Accept": accept}
    began, first, num_bytes = time.monotonic(), None, 0
    with httpx.stream(
        "POST", f"{target.address}/v1/segment", files={"video": video}, headers=headers, timeout=3600
    ) as answer:
        for piece in answer.iter_bytes():
            num_bytes += len(piece)
            if first is None and (b'"frames"' in piece or "ndjson" not in accept):
                first = time.monotonic() - began
        assert answer.status_code == 200
    assert first is not None
    return first, time.monotonic() - began, num_bytes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--minutes", nargs="+", type=int, default=[1, 10, 60], help="default: 1 10 60")
    parser.add_argument(
        "--accept", default="application/x-ndjson", help="form of the response (default: %(default)s)"
    )
    parser.add_argument("--height", type=int, default=48, help="of the videos, in pixels (default: 48)")
    parser.add_argument("--fps", type=int, default=1, help="pictures a second of the videos (default: 1)")
    parser.add_argument("--http-only", action="store_true", help="without Ray, MLflow and a model")
    flags = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started ends, too
    load, cores = psutil.getloadavg()[0], psutil.cpu_count()
    with (http_only if flags.http_only else whole_endpoint)(**LIMITS) as target:
        key = target.keys.add("segment")
        ask(target, key, write_video(10), flags.accept)  # what is set up once is no growth
        parts = [*target.processes(), "decoders"]
        print(f"load of the machine before: {load:.1f} on {cores} cores")
        print("   video    upload  response   first    last", *(f"{part:>9}" for part in parts), flush=True)
        for minutes in flags.minutes:
            video = long_video(minutes, height=flags.height, fps=flags.fps)
            with watched(target) as peaks:
                first, last, num_bytes = ask(target, key, video, flags.accept)
            sizes = f"{len(video) / 1e6:6.1f} MB {num_bytes / 1e6:6.1f} MB"
            held = " ".join(f"{peaks[part]:6.0f} MB" for part in parts)
            print(f"{minutes:4d} min {sizes} {first:5.1f} s {last:5.1f} s {held}", flush=True)


if __name__ == "__main__":
    main()
