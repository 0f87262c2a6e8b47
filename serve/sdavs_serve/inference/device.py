"""Whether the device of a replica still computes.

Some CUDA errors are sticky: after an illegal memory access every later call in the process fails. Such a replica fails
its requests quickly, has the shortest queue, and attracts traffic. It has to end.
"""

import asyncio
from collections.abc import Callable

PROBE_S = 20.0
"""Longest time of a probe, below Serve's limit for a health check (30 s); a busy device answers after its batch."""


class DeviceHealth:
    """Asks the device with a small computation, at health checks and after a failed batch."""

    def __init__(self, *, probe_s: float = PROBE_S) -> None:
        """
        Args:
            probe_s: see PROBE_S.
        """
        self._probe_s = probe_s
        self.broken: str | None = None
        """Why the device computes no more; stays, because nothing in this process mends it."""

    async def check(self, probe: Callable[[], None]) -> None:
        """Ask the device; returns at once where that has failed before.

        Args:
            probe: computes something on the device; raises if that fails. Blocking.

        Raises:
            RuntimeError: the device computes no more.
        """
        if self.broken is None:
            try:
                async with asyncio.timeout(self._probe_s):
                    await asyncio.to_thread(probe)
            except TimeoutError:
                self.broken = f"no result of a small computation within {self._probe_s:g} s"
            except Exception as error:
                # torch raises RuntimeErrors and errors of its own for what CUDA reports.
                self.broken = f"{type(error).__name__}: {error}"
        if self.broken is not None:
            raise RuntimeError(f"the device computes no more: {self.broken}")
