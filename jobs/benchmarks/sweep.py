"""Time and memory per trial of a sweep's driver, with simulated trainings.

    python jobs/benchmark.py sweep                                  10, 100 and 1000 trials
    python jobs/benchmark.py sweep --num-trials 10 50 --concurrent 2

Each sweep runs in its own process on a private Ray cluster; the processes of the trials are not counted.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile

from _flags import add_json, add_numbers
from _job import print_result


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `benchmark.py sweep`."""
    add_numbers(parser, "--num-trials", (10, 100, 1000), "sizes of sweeps")
    parser.add_argument("--concurrent", type=int, default=2, help="trials at once (default: %(default)s)")
    add_json(parser)
    # A new process measures one size and prints it.
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)


def run(flags: argparse.Namespace) -> None:
    """Measure and print."""
    from sdavs_platform.console import track
    from sdavs_platform.tables import text_table

    if flags.here:
        print_result(json.dumps(_measured_here(flags.num_trials[0], flags.concurrent)))
        return
    costs = []
    for num_trials in track(flags.num_trials, "sweeps", total=len(flags.num_trials), every=1):
        costs.append(_measured_apart(num_trials, flags.concurrent))
    if flags.json:
        print_result(json.dumps(costs, indent=2))
        return
    rows = [
        [
            num_trials,
            f"{1000 * cost['cpu_seconds'] / num_trials:.0f}",
            f"{cost['memory_mb']:.1f}",
            f"{1000 * cost['memory_mb'] / num_trials:.0f}",
            f"{cost['seconds']:.0f}",
        ]
        for num_trials, cost in zip(flags.num_trials, costs, strict=True)
    ]
    print_result(
        text_table(["trials", "driver CPU, ms a trial", "memory, MB", "KB a trial", "wall, s"], rows)
    )


def _measured_apart(num_trials: int, concurrent: int) -> dict[str, float]:
    command = [sys.executable, sys.argv[0], "sweep", "--here", "--num-trials", str(num_trials)]
    ran = subprocess.run([*command, "--concurrent", str(concurrent)], capture_output=True, text=True)
    if ran.returncode:
        raise ValueError(f"the sweep of {num_trials} trials failed:\n{ran.stderr[-2000:]}")
    return json.loads(ran.stdout.splitlines()[-1])


def _measured_here(num_trials: int, concurrent: int) -> dict[str, float]:
    from sdavs_platform.cluster import joined_cluster
    from sdavs_platform.config.tree import ClusterConfig, RunConfig
    from sdavs_platform.tuning.driver import DRIVER_MEMORY_BYTES
    from sdavs_platform.tuning.simulation import measure_driver

    config = RunConfig(cluster=ClusterConfig(address="local"))
    # Tune requests a process ahead of every trial, also where it then reuses an old one. Without memory for more
    # than run at once these are not started; otherwise hundreds would be starting at the same time.
    room = joined_cluster(config, prints_workers=False, memory_bytes=concurrent * DRIVER_MEMORY_BYTES)
    with tempfile.TemporaryDirectory() as storage, room:
        # The first sweep of a process loads what every later one uses.
        measure_driver(2, f"{storage}/warm", max_concurrent=concurrent)
        return dataclasses.asdict(measure_driver(num_trials, storage, max_concurrent=concurrent))
