"""Send videos of growing length to a real endpoint and watch the memory of every process that has to do with them.

    .venv/bin/python tests/drills/long_videos.py
    .venv/bin/python tests/drills/long_videos.py --minutes 1 60 --accept video/mp4

Starts Ray, MLflow and an endpoint of its own. Prints, for each length, the most that each process held, in MB.
"""

import argparse
import contextlib
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in ("", "serve"))

from stack import Stack, running_stack
from uploads import write_video

LIMITS = {
    "max_seconds": 7200,
    "max_frames": 7200,
    "max_upload_mb": 500,
    "timeout_s": 3600,
    "decoder_cpu_s": 600,
}
LOOK_S = 0.05


@contextmanager
def watched(stack: Stack) -> Iterator[dict[str, float]]:
    """Peaks of resident memory, in MB, by kind of process."""
    peaks: dict[str, float] = defaultdict(float)
    (ingress,) = (psutil.Process(number) for number in stack.processes("ingress"))
    models = [psutil.Process(number) for name in "ab" for number in stack.processes(f"model-{name}")]
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            kinds = {"ingress": [ingress], "decoder": ingress.children(recursive=True), "model": models}
            for kind, processes in kinds.items():
                for process in processes:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        peaks[kind] = max(peaks[kind], process.memory_info().rss / 1e6)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--minutes", nargs="+", type=int, default=[1, 10, 60], help="default: 1 10 60")
    parser.add_argument(
        "--accept", default="application/json", help="form of the answer (default: %(default)s)"
    )
    flags = parser.parse_args()
    with running_stack(**LIMITS) as stack:
        stack.post(video=write_video(10), accept=flags.accept)  # what is set up once is no growth
        print(f"{'video':>8} {'upload':>9} {'answer':>9} {'took':>7}   ingress  decoder    model", flush=True)
        for minutes in flags.minutes:
            video = write_video(60 * minutes)
            with watched(stack) as peaks:
                started = time.monotonic()
                answer = stack.post(video=video, accept=flags.accept, timeout_s=LIMITS["timeout_s"])
                took = time.monotonic() - started
            assert answer.status_code == 200, answer.text
            sizes = f"{len(video) / 1e6:6.1f} MB {len(answer.content) / 1e6:6.1f} MB"
            held = " ".join(f"{peaks[kind]:5.0f} MB" for kind in ("ingress", "decoder", "model"))
            print(f"{minutes:4d} min {sizes} {took:5.0f} s  {held}", flush=True)


if __name__ == "__main__":
    main()
