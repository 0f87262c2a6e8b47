"""A made-up sweep as a process of its own, to be killed: made_up.py ADDRESS STORAGE NUM_TRIALS GO.

All trials but the first wait until the file GO exists, so that a test finds the sweep halfway however fast it is.
"""

import sys
import time
from pathlib import Path

import ray
from sdavs_platform.tuning.simulation import made_up_sweep, run_made_up

if __name__ == "__main__":
    address, storage, num_trials, go = sys.argv[1:]

    def hold(trial: str) -> None:
        while trial != "t0000" and not Path(go).exists():
            time.sleep(0.05)

    ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    sweep = made_up_sweep(num_trials=int(num_trials), name="killed")
    run_made_up(sweep, storage, max_concurrent=1, epochs=2, before=hold)
