"""How long tests wait: for conditions, with generous ends that grow with the slowness of the machine.

Limits are written for two idle cores of the reference machine. `slowness` says how much slower this one is: measured
once, when pytest starts, and handed to all processes of the tests through the environment.
"""

import functools
import os
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

VARIABLE = "SDAVS_TEST_SLOWNESS"
"""Set it to choose the factor by hand, for example on a machine that gets busy later."""

REFERENCE_S = 0.3
"""What the calibration takes on a core of an AMD EPYC of the third generation (Zen 3) with nothing else to do."""

SLOWEST = 20.0
"""Beyond that something is broken."""


@functools.cache
def slowness() -> float:
    """How much longer than on the reference machine everything may take, between 1 and `SLOWEST`."""
    return float(os.environ.setdefault(VARIABLE, f"{_measured():.2f}"))


def patience(seconds: float) -> float:
    """A limit of the reference machine as one of this machine."""
    return seconds * slowness()


def wait_until(
    condition: Callable[[], Result],
    *,
    what: str,
    seconds: float = 120.0,
    every: float = 0.1,
    details: Callable[[], object] = lambda: "",
) -> Result:
    """Return the condition's first result that is true.

    Args:
        what: what is waited for, in the message of the failure.
        seconds: the limit on the reference machine, see `patience`.
        every: pause between two looks, in seconds.
        details: what the message shows of the state at the end.

    Raises:
        AssertionError: the condition did not become true in time.
    """
    deadline = time.monotonic() + patience(seconds)
    while True:
        # Before the look: a machine that is stopped for a while must not make the last look an old one.
        is_late = time.monotonic() > deadline
        if result := condition():
            return result
        if is_late:
            raise AssertionError(f"waited {patience(seconds):.0f} s for {what}. {details()}")
        time.sleep(every)


def _measured() -> float:
    """The time that a fixed amount of work takes, and how many processes want each core."""
    started, started_cpu = time.monotonic(), time.process_time()
    total = 0
    for number in range(2_000_000):
        total = (total * 31 + number) & 0xFFFFFFFF
    wall, cpu = time.monotonic() - started, time.process_time() - started_cpu
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    # The load of the last minute knows what comes and goes; the clock on the wall knows what has just begun.
    return min(max(1.0, wall / REFERENCE_S, cpu / REFERENCE_S * (1 + load)), SLOWEST)
