"""Run the code of this checkout, here and in every Ray worker.

An installed project needs none of this. `ray job submit --working-dir .` does: Ray puts only the
root of the upload on the path; `sdavs_platform` would be missing, or come from another, installed copy.
"""

import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


def use_this_checkout() -> None:
    """Put the three source roots first on `sys.path`, and on PYTHONPATH for child processes and workers."""
    roots = [str(CHECKOUT), str(CHECKOUT / "platform"), str(CHECKOUT / "serve")]
    sys.path[:0] = roots
    others = [
        path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in roots
    ]
    os.environ["PYTHONPATH"] = os.pathsep.join(roots + others)
