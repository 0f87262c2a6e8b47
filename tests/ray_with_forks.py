"""The `ray` command for a node whose workers are forked, see `worker_forks`; its first argument is what starts them."""

import sys

from ray._private import ray_constants
from ray.scripts.scripts import main

if __name__ == "__main__":
    # Joined to the folder of the usual one, an absolute path stays as it is.
    ray_constants.SETUP_WORKER_FILENAME = sys.argv.pop(1)
    main()
