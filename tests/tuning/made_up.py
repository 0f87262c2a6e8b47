"""A made-up sweep as a process of its own, to be killed: made_up.py ADDRESS STORAGE NUM_TRIALS EPOCH_SECONDS."""

import sys

import ray
from sdavs_platform.tuning.simulation import made_up_sweep, run_made_up

if __name__ == "__main__":
    address, storage, num_trials, epoch_seconds = sys.argv[1:]
    ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    sweep = made_up_sweep(num_trials=int(num_trials), name="killed")
    run_made_up(sweep, storage, max_concurrent=1, epochs=4, epoch_seconds=float(epoch_seconds))
