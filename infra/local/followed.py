"""Run a training as a command and wait for lines of its output."""

import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

STEP = re.compile(r"\bstep (\d+)/\d+ \|")
RESUMED = re.compile(r"resuming after step (\d+)")
LIMIT_S = 300.0

Line = tuple[float, str]
"""Time in seconds, and text."""


class Followed:
    """Starts the command; a thread reads its output and writes it to `log`."""

    def __init__(self, command: list[str], *, log: Path) -> None:
        self._log = log
        self._lines: list[Line] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        threading.Thread(target=self._read, daemon=True).start()

    def wait_for(self, fits: Callable[[str], bool], *, since: float = 0.0) -> Line:
        """The first line after `since` that fits.

        Raises:
            RuntimeError: the training ended without one, or none came in 300 s; with the last lines.
        """
        deadline = time.monotonic() + LIMIT_S
        with self._changed:
            while True:
                for at, text in self._lines:
                    if at > since and fits(text):
                        return at, text
                if self._process.poll() is not None or not self._changed.wait(deadline - time.monotonic()):
                    raise RuntimeError(f"the expected output did not appear:\n{self._tail()}")

    def wait_for_step(self, step: int, *, since: float = 0.0) -> float:
        """When this step or a later one was reported."""
        return self.wait_for(lambda text: (_number(STEP, text) or 0) >= step, since=since)[0]

    def wait_for_resume(self, *, since: float) -> int:
        """After which step the training resumed."""
        number = _number(RESUMED, self.wait_for(lambda text: bool(RESUMED.search(text)), since=since)[1])
        assert number is not None
        return number

    def newest_step(self) -> int:
        """The last one reported."""
        with self._changed:
            return max(_number(STEP, text) or 0 for _, text in self._lines)

    def finish(self) -> None:
        """Return when the command ended well.

        Raises:
            RuntimeError: it failed, or did not end in 300 s; with the last lines.
        """
        try:
            failed = self._process.wait(LIMIT_S) != 0
        except subprocess.TimeoutExpired:
            failed = True
        if failed:
            raise RuntimeError(f"the training failed:\n{self._tail()}")

    def _read(self) -> None:
        assert self._process.stdout
        with self._log.open("w", buffering=1) as log:
            for line in self._process.stdout:
                log.write(line)
                with self._changed:
                    self._lines.append((time.monotonic(), line.rstrip()))
                    self._changed.notify_all()
        with self._changed:
            self._process.wait()
            self._changed.notify_all()

    def _tail(self) -> str:
        return "\n".join(text for _, text in self._lines[-30:])


def _number(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    return int(found[1]) if found else None
