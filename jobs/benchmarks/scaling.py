"""A training step's cost by number of workers and ZeRO stage, and what that predicts for Swin-B on many GPUs.

    python jobs/benchmark.py scaling                                        1, 2 and 4 workers; 8 to 256 GPUs
    python jobs/benchmark.py scaling --workers 1 2 --gpus 64 --clips-per-gpu 8 --json
    python jobs/benchmark.py scaling --config jobs/configs/ms3_pvt.yaml --workers 1 2 4 --steps 3

Measured with processes on this machine's CPU, one thread each, on synthetic clips. Takes minutes on
idle cores and 10 GB of memory. docs/scaling.md explains the model and its assumptions.
"""

import argparse
import json

from _flags import add_json, add_numbers, add_training_config
from _job import print_result


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `benchmark.py scaling`."""
    here = parser.add_argument_group("what is measured here")
    what = "a training's YAML file: model and global batch"
    add_training_config(here, "jobs/configs/demo.yaml", what=what)
    add_numbers(here, "--workers", (1, 2, 4), "processes")
    add_numbers(here, "--stages", (0, 1, 2, 3), "ZeRO stages", choices=range(4))
    here.add_argument("--steps", type=int, default=4, help="timed steps (default: %(default)s)")
    there = parser.add_argument_group("what is predicted")
    add_numbers(there, "--gpus", (8, 16, 32, 64, 128, 256), "numbers of GPUs")
    there.add_argument(
        "--clips-per-gpu", type=int, default=4, help="clips per GPU and step (default: %(default)s)"
    )
    there.add_argument(
        "--reached-flops",
        type=float,
        default=0.3,
        help="fraction of a GPU's peak that training reaches (default: %(default)s)",
    )
    there.add_argument(
        "--reached-bandwidth",
        type=float,
        default=0.8,
        help="fraction of a link's peak that large messages reach (default: %(default)s)",
    )
    add_json(parser.add_argument_group("where it goes"))


def run(flags: argparse.Namespace) -> None:
    """Measure, predict and print."""
    from sdavs_platform.benchmarks.scaling import measure
    from sdavs_platform.benchmarks.scaling_model import Assumptions
    from sdavs_platform.benchmarks.scaling_tables import results_table
    from sdavs_platform.config.cli import load_config

    report = measure(
        load_config([flags.config]),
        num_workers=flags.workers,
        stages=sorted(set(flags.stages)),
        num_steps=flags.steps,
        num_gpus=flags.gpus,
        given=Assumptions(
            reached_flops=flags.reached_flops,
            reached_bandwidth=flags.reached_bandwidth,
            clips_per_gpu=flags.clips_per_gpu,
        ),
    )
    print_result(json.dumps(report, indent=2) if flags.json else results_table(report))
