"""Where the time of one request goes, without HTTP: `python -m sdavs_serve.tools.path_profile --height 1080`.

A drawn clip of five seconds goes through a decoder process, the model's preprocessing, an untrained model and the JSON
writer, in two ways in turn: with its pictures sent as displayed, and squashed by the decoder. What Ray moves between
ingress and model is pickled and read again, as Ray does. Besides times by the clock it prints CPU time, which hardly
depends on what else the machine does: "decode" is then what the ingress does for it, "decoder" the decoder's process.
"""

import argparse
import pickle
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from sdavs_platform.config.serve import ServeConfig
from sdavs_platform.local.sample import write_video
from sdavs_platform.tables import text_table

from sdavs_model import SDAVSConfig, build_model
from sdavs_model.data.core.preprocess import Preprocessor
from sdavs_model.golden import standard_clip
from sdavs_serve.decoding.media import windows
from sdavs_serve.decoding.sandboxed_decoders import Sandbox, Upload
from sdavs_serve.encoding.responses import JsonWriter, SegmentedFrame
from sdavs_serve.inference.served_model import frame_regions
from sdavs_serve.model_calls import Masks
from sdavs_serve.schema import AnswerHead, ModelInfo, Timings

CLASSES = ["background", "sounding object"]
HEAD = AnswerHead(
    model=ModelInfo(name="untrained", version="1", alias=None, run_id="", data_digest="", sha256=""),
    fps=1,
    threshold=0.5,
)


class _Stages:
    """Adds up seconds and megabytes by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.cpu_s: dict[str, float] = defaultdict(float)
        self.moved_mb = 0.0

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        started, spent = time.perf_counter(), time.process_time()
        yield
        self.seconds[stage] += time.perf_counter() - started
        self.cpu_s[stage] += time.process_time() - spent

    def across_ray(self, thing: Any) -> Any:
        with self.time("across Ray"):
            content = pickle.dumps(thing, protocol=pickle.HIGHEST_PROTOCOL)
            self.moved_mb += len(content) / 1e6
            return pickle.loads(content)


@torch.inference_mode()
def request(
    sandbox: Sandbox, upload: Upload, model: torch.nn.Module, preprocessor: Preprocessor, *, squash: bool
) -> tuple[_Stages, bytes]:
    """One request: its stages and its JSON."""
    stages, writer = _Stages(), JsonWriter(HEAD, CLASSES)
    side = preprocessor.config.image_size
    decoding = sandbox.samples(upload, squash_to=side if squash else None)
    parts = windows(decoding.samples(), num_frames=5)
    while True:
        with stages.time("decode"):
            window = next(parts, None)
        if window is None:
            break
        clip = stages.across_ray(window.clip)
        with stages.time("preprocess"):
            frames = preprocessor.frames(list(clip.frames))
            log_mel = preprocessor.log_mel(clip.waveform, clip.num_frames)
        with stages.time("model"):
            logits = model(frames[None], log_mel[None])[0]
        with stages.time("masks"):
            size = clip.size or clip.frames.shape[1:3]
            masks = Masks(version=1, size=size, frames=frame_regions(logits, size=size, threshold=0.5))
        masks = stages.across_ray(masks)
        with stages.time("encode"):
            for index, regions in enumerate(masks.frames):
                writer.add(
                    SegmentedFrame(
                        index=window.first + index, time_s=0, picture=None, size=masks.size, regions=regions
                    )
                )
    with stages.time("encode"):
        body = writer.finish(Timings(decode=0, model=0, encode=0, total=0)).read()
    return stages, body


def _decoders_cpu_s(sandbox: Sandbox) -> float:
    """CPU seconds of the decoders so far, once the last one has ended."""
    server = psutil.Process(sandbox.server)
    while server.children():
        time.sleep(0.001)
    times = server.cpu_times()
    return times.children_user + times.children_system


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--height", type=int, default=1080, help="of the clip, 16:9 (default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=128, help="of the model (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="requests each way (default: %(default)s)")
    flags = parser.parse_args()
    height, width = flags.height, flags.height * 16 // 9
    config = SDAVSConfig(backbone="resnet10t", image_size=flags.image_size, width=64, num_heads=4)
    model, preprocessor = build_model(config).eval(), Preprocessor(config.preprocess)
    clip = standard_clip(5)
    frames = [np.asarray(Image.fromarray(frame).resize((width, height))) for frame in clip.frames]
    ways = {"pictures as displayed": False, "squashed by the decoder": True}
    best: dict[str, tuple[float, _Stages]] = {}
    cpu_s: dict[str, Counter[str]] = {way: Counter() for way in ways}
    answers = set()
    sandbox = Sandbox(ServeConfig())
    try:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "clip.mp4"
            write_video(replace(clip, frames=np.stack(frames)), path)
            for number in range(flags.repeats + 1):
                for way, squash in ways.items():
                    with path.open("rb") as file:
                        upload = Upload(
                            file=file, kind="video", parts=[(0, path.stat().st_size)], fps=1, threshold=0.5
                        )
                        before = _decoders_cpu_s(sandbox) if number else 0.0
                        stages, body = request(sandbox, upload, model, preprocessor, squash=squash)
                        stages.cpu_s["decoder"] = _decoders_cpu_s(sandbox) - before
                    if number:  # the first one also starts the fork server and torch's threads
                        cpu_s[way].update(stages.cpu_s)
                    total = sum(stages.seconds.values())
                    best[way] = min(best.get(way, (total, stages)), (total, stages), key=lambda pair: pair[0])
                    answers.add(body)
    finally:
        sandbox.close()
    assert len(answers) == 1, "both ways give the same masks"
    names = ["decode", "across Ray", "preprocess", "model", "masks", "encode"]
    rows = [
        [
            way,
            *(round(1000 * stages.seconds[name]) for name in names),
            round(1000 * total),
            f"{stages.moved_mb:.2f}",
        ]
        for way, (total, stages) in best.items()
    ]
    print(text_table([f"{width}x{height}, ms", *names, "sum", "MB across Ray"], rows))
    parts = ["decoder", *names]
    means = {way: [1000 * spent[part] / flags.repeats for part in parts] for way, spent in cpu_s.items()}
    cpu_rows = [[way, *(f"{mean:.1f}" for mean in [*each, sum(each)])] for way, each in means.items()]
    print(text_table([f"{width}x{height}, mean CPU ms", *parts, "sum"], cpu_rows))
    before, after = (best[way][0] for way in ways)
    print(f"{before / after:.2f} times as fast; the best of {flags.repeats + 1} requests each, in turn")


if __name__ == "__main__":
    main()
