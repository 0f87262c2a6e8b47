"""Whether the device of a replica still computes.

Some CUDA errors are sticky: after an illegal memory access every later call in the process fails. Such a replica fails
its requests quickly, has the shortest queue, and attracts traffic. It has to end.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

PROBE_S = 8.0
"""Longest time of a probe, below Serve's limit for a health check (`app.HEALTH`)."""


class DeviceHealth:
    """Tests the device with a small computation, at health checks and after a failed batch."""

    def __init__(self, *, probe_s: float = PROBE_S) -> None:
        """
        Args:
            probe_s: see PROBE_S.
        """
        self._probe_s = probe_s
        # Of its own: in the event loop's few threads it would wait for masks of large frames.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device probe")
        self.broken: str | None = None
        """Why the device no longer computes; permanent, because this process cannot repair it."""

    async def check(self, probe: Callable[[], None], *, is_busy: Callable[[], bool] = lambda: False) -> None:
        """Test the device; returns at once if a test has failed before.

        Args:
            probe: computes something on the device; raises if that fails. Blocking.
            is_busy: whether the device has other work by now, which a slow probe may have waited for.

        Raises:
            RuntimeError: the device no longer computes.
        """
        if self.broken is None:
            try:
                async with asyncio.timeout(self._probe_s):
                    await asyncio.get_running_loop().run_in_executor(self._thread, probe)
            except TimeoutError:
                if is_busy():
                    return
                self.broken = f"no result of a small computation within {self._probe_s:g} s"
            except Exception as error:
                # torch raises RuntimeErrors and errors of its own for what CUDA reports.
                self.broken = f"{type(error).__name__}: {error}"
        if self.broken is not None:
            raise RuntimeError(f"the device no longer computes: {self.broken}")
