"""A training step on Ray Train and DeepSpeed, compared with a bare PyTorch loop.

    python jobs/benchmark.py training                                       a small model on the bundled data set
    python jobs/benchmark.py training --config jobs/configs/ms3_swin.yaml --data /data/MS3 --rounds 10
    python jobs/benchmark.py training --json

One worker alternates between blocks of steps of both kinds, on the same batches. The data set must have clips for at
least two batches.
"""

import argparse
import json

from _flags import add_json, add_training_config, at_least_one
from _job import print_result


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `benchmark.py training`."""
    what = parser.add_argument_group("what is measured")
    add_training_config(what, "jobs/configs/demo_from_scratch.yaml")
    what.add_argument(
        "--data", help="data set folder or bucket (default: the config's, else the bundled data set)"
    )
    what.add_argument(
        "--rounds", type=at_least_one, default=7, help="pairs of timed blocks (default: %(default)s)"
    )
    what.add_argument(
        "--steps", type=at_least_one, default=10, help="steps of a block (default: %(default)s)"
    )
    add_json(parser.add_argument_group("where it goes"))


def run(flags: argparse.Namespace) -> None:
    """Measure and print."""
    from sdavs_platform.benchmarks.training_overhead import measure, results_table
    from sdavs_platform.config.cli import load_config

    config = load_config([flags.config])
    if flags.data:
        config = config.model_copy(update={"data": config.data.model_copy(update={"root": flags.data})})
    report = measure(config, num_rounds=flags.rounds, num_steps=flags.steps)
    print_result(json.dumps(report, indent=2) if flags.json else results_table(report))
