"""Clips per second from the data loader, compared with what a training step needs.

    python jobs/benchmark.py data                                       the bundled data set and the demo's model
    python jobs/benchmark.py data --config jobs/configs/ms3_pvt.yaml --device cuda --workers 0 4 8 16
    python jobs/benchmark.py data --s3 s3://bucket/own                  also from a bucket into the local copy
    python jobs/benchmark.py data --simulate-gpu                        waiting for the loader at the paper's sizes
    python jobs/benchmark.py data --simulate-gpu 0.3 --workers 2        the same with a step of 0.3 s

The clips are loaded with the training's augmentation and without it, with sound decoded every time and from the cache.
"""

import argparse
import json

from _flags import add_json, add_numbers, add_training_config
from _job import print_result


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `benchmark.py data`."""
    what = parser.add_argument_group("what is measured")
    add_training_config(what, "jobs/configs/demo.yaml")
    what.add_argument(
        "--data", help="data set folder or bucket (default: the config's, else the bundled data set)"
    )
    what.add_argument("--s3", metavar="URI", help="also fetch this copy of the data set")
    add_numbers(what, "--workers", (0, 1, 2, 4), "loader processes to try")
    what.add_argument("--clips", type=int, default=64, help="clips to load each time (default: %(default)s)")
    what.add_argument(
        "--device", default="cpu", help="where the model trains: cpu or cuda (default: %(default)s)"
    )
    what.add_argument(
        "--simulate-gpu",
        type=float,
        nargs="?",
        const=0.0,
        metavar="SECONDS",
        help="measure instead how long a step of so many seconds on a GPU waits for composed clips of 384 px "
        "(default: what Table X's speed of Swin-B makes of it)",
    )
    what.add_argument("--steps", type=int, default=8, help="steps of that measurement (default: %(default)s)")
    add_json(parser.add_argument_group("where it goes"))


def run(flags: argparse.Namespace) -> None:
    """Measure and print."""
    if flags.simulate_gpu is not None:
        from sdavs_platform.benchmarks import loader_wait

        waits = loader_wait.measure(
            num_workers=flags.workers,
            step_s=flags.simulate_gpu or loader_wait.paper_step_s(),
            num_steps=flags.steps,
        )
        print_result(json.dumps(waits, indent=2) if flags.json else loader_wait.results_table(waits))
        return
    from sdavs_platform.benchmarks.data_throughput import measure, results_table
    from sdavs_platform.config.cli import load_config
    from sdavs_platform.storage.datasets import bundled_data

    config = load_config([flags.config])
    root = flags.data or config.data.root or str(bundled_data())
    config = config.model_copy(update={"data": config.data.model_copy(update={"root": root})})
    report = measure(
        config,
        num_workers=flags.workers,
        num_clips=flags.clips,
        bucket=flags.s3,
        device=flags.device,
    )
    print_result(json.dumps(report, indent=2) if flags.json else results_table(report))
