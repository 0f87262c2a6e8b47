"""The endpoint's throughput and latency at rising load, beside the bare model in process.

    python jobs/benchmark.py serve                                          the champion, a drawn clip of five seconds
    python jobs/benchmark.py serve --video clip.mp4 --clients 1 4 16 --seconds 30
    python jobs/benchmark.py serve --num-gpus 0.5 --max-batch-frames 80

Starts a Ray of its own, twice: once answering window by window, once in batches. Nothing that runs is touched.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `benchmark.py serve`."""
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--model", default="models:/sdavs@champion", help="registered model (default: %(default)s)"
    )
    what.add_argument(
        "--video", type=Path, help="clip that every request sends (default: a drawn one of 5 s)"
    )
    what.add_argument(
        "--clients",
        type=int,
        nargs="+",
        default=[1, 2, 4, 8],
        help="requests at once, one measurement each (default: 1 2 4 8)",
    )
    what.add_argument("--seconds", type=float, default=15, help="of each measurement (default: %(default)s)")
    what.add_argument("--num-gpus", type=float, default=0, help="GPUs of one model copy (default: none)")
    what.add_argument(
        "--max-batch-frames", type=int, help="frames of one forward pass (default: the endpoint's)"
    )
    what.add_argument("--tracking-uri", help="MLflow (default: MLFLOW_TRACKING_URI, else the state folder)")
    parser.add_argument_group("where it goes").add_argument(
        "--json", action="store_true", help="print JSON instead of a table"
    )


def run(flags: argparse.Namespace) -> None:
    """Measure and tell."""
    from sdavs_platform.config import ServeConfig
    from sdavs_platform.local.sample import write_video
    from sdavs_platform.tracking.client import tracking_uri
    from sdavs_serve.load_test import measure, report_table, to_json

    from sdavs_model.golden import standard_clip

    config = ServeConfig(
        model_uri=flags.model,
        tracking_uri=tracking_uri(flags.tracking_uri),
        num_gpus=flags.num_gpus,
        max_requests=max(flags.clients),
        **({"max_batch_frames": flags.max_batch_frames} if flags.max_batch_frames else {}),
    )
    with tempfile.TemporaryDirectory() as scratch:
        video = flags.video or Path(scratch) / "clip.mp4"
        if not flags.video:
            write_video(standard_clip(5), video)
        rows = measure(
            config,
            video=video.read_bytes(),
            clients=flags.clients,
            seconds=flags.seconds,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    print(json.dumps(to_json(rows), indent=2) if flags.json else report_table(rows))
