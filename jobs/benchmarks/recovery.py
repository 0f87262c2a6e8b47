"""Time to a training's first step, time from a killed worker to the next step, and time that a checkpoint blocks.

    python jobs/benchmark.py recovery                                       a small model on the bundled data set
    python jobs/benchmark.py recovery --config jobs/configs/ms3_pvt.yaml --set data.root=/data/MS3
    python jobs/benchmark.py recovery --json

Runs `jobs/train.py` on its own Ray cluster, as a Ray job would on a running one, and kills one of its workers.
"""

import argparse
import json

from _flags import add_json, add_training_config
from _job import print_result

SMALL = ["training.batch_size=8", "data.whole_clips=0"]
"""Long steps would hide what is measured, and so few windows make no whole clips for two workers."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `benchmark.py recovery`."""
    what = parser.add_argument_group("what is measured")
    add_training_config(what, "jobs/configs/demo_from_scratch.yaml")
    what.add_argument(
        "--set",
        nargs="+",
        default=SMALL,
        metavar="KEY=VALUE",
        help=f"changes to it (default: {' '.join(SMALL)})",
    )
    add_json(parser.add_argument_group("where it goes"))


def run(flags: argparse.Namespace) -> None:
    """Measure and print."""
    from sdavs_platform.benchmarks.recovery import measure, results_table
    from sdavs_platform.storage.datasets import bundled_data

    if not any(change.startswith("data.root=") for change in flags.set):
        bundled_data()  # composed on first use, which is no part of a start
    overrides = []
    for change in flags.set:
        key, is_given, value = change.partition("=")
        if not is_given:
            raise ValueError(f"--set: {change!r} is not KEY=VALUE")
        overrides += [f"--{key}", value]
    report = measure(flags.config, overrides)
    print_result(json.dumps(report, indent=2) if flags.json else results_table(report))
