"""What a sweep's driver costs per trial, in time and memory, with made-up trainings.

    python jobs/benchmark.py sweep                                  10, 100 and 1000 trials
    python jobs/benchmark.py sweep --num-trials 10 50 --concurrent 2

Each sweep runs in a process of its own on a private Ray cluster; the trials' own processes do not count.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `benchmark.py sweep`."""
    parser.add_argument(
        "--num-trials", type=int, nargs="+", default=[10, 100, 1000], help="sizes (default: %(default)s)"
    )
    parser.add_argument("--concurrent", type=int, default=2, help="trials at once (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    # A fresh process measures one size and prints it.
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)


def run(flags: argparse.Namespace) -> None:
    """Measure and tell."""
    if flags.here:
        print(json.dumps(_measured_here(flags.num_trials[0], flags.concurrent)))
        return
    if not flags.json:
        print(
            f"{'trials':>7}{'driver CPU, ms a trial':>25}{'memory, MB':>13}{'KB a trial':>13}{'wall, s':>10}"
        )
    costs = []
    for num_trials in flags.num_trials:
        costs.append(_measured_apart(num_trials, flags.concurrent))
        cost = costs[-1]
        if not flags.json:
            print(
                f"{num_trials:>7}{1000 * cost['cpu_seconds'] / num_trials:>25.0f}{cost['memory_mb']:>13.1f}"
                f"{1000 * cost['memory_mb'] / num_trials:>13.0f}{cost['seconds']:>10.0f}",
                flush=True,
            )
    if flags.json:
        print(json.dumps(costs, indent=2))


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
    # Tune asks for a process ahead of every trial, also where it then goes on in an old one. Without room for more
    # than run at once it is not started, or hundreds would be starting side by side.
    room = joined_cluster(config, prints_workers=False, memory_bytes=concurrent * DRIVER_MEMORY_BYTES)
    with tempfile.TemporaryDirectory() as storage, room:
        # The first sweep of a process loads and warms what every later one uses.
        measure_driver(2, f"{storage}/warm", max_concurrent=concurrent)
        return dataclasses.asdict(measure_driver(num_trials, storage, max_concurrent=concurrent))
