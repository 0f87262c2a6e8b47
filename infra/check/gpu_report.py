"""The results of `gpu.py`, written after every measurement, because a run may be cut off at any moment."""

import contextlib
import json
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sdavs_model.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]


class OutOfTime(Exception):
    """The next measurement would end after the time limit."""


class Report:
    """Measurements with their goals, as JSON and as a Markdown table.

    Args:
        folder: gets gpu_check.json and gpu_check.md.
        device: what is measured.
        minutes: after these no measurement begins.
    """

    def __init__(self, folder: Path, *, device: torch.device, minutes: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._started = time.monotonic()
        self._deadline = self._started + 60 * minutes
        self.parts: dict[str, str] = {}
        self.failures: list[str] = []
        self.measurements: list[dict[str, Any]] = []
        on_gpu = device.type == "cuda"
        self.environment = {
            "command": " ".join(sys.argv),
            "device": torch.cuda.get_device_name(device) if on_gpu else platform.processor() or "cpu",
            "torch": torch.__version__,
            "cuda": torch.version.cuda if on_gpu else None,
            "python": platform.python_version(),
            "commit": _commit(),
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        }
        self._write()

    @property
    def time_left(self) -> float:
        """Seconds until the time limit."""
        return self._deadline - time.monotonic()

    def require_time(self, seconds: float) -> None:
        """Raises OutOfTime if fewer seconds are left."""
        if seconds > self.time_left:
            raise OutOfTime

    def part(self, name: str, state: str) -> None:
        """Note how far a part is: "running", "done", "failed: ...", "not run: ..."."""
        self.parts[name] = state
        self._write()

    @contextlib.contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Context manager that records an error as a failure of `what`; the run continues after the block.

        Raises:
            OutOfTime, ImportError: these concern the whole part.
        """
        try:
            yield
        except (OutOfTime, ImportError):
            raise
        except Exception as error:  # whatever it is, what follows is still worth measuring
            first = (str(error).splitlines() or [""])[0][:300]
            raised = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(raised.filename).name}:{raised.lineno}"
            self.failures.append(f"{what}: {type(error).__name__} in {where}: {first}")
            print(f"{'FAILED':<12} {self.failures[-1]}", flush=True)
            self._write()

    def add(
        self,
        name: str,
        value: float | None,
        unit: str = "",
        *,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> None:
        """Record one measurement of the part that is running, and whether it reaches its goal."""
        goal, reached = "", None
        if value is not None and at_least is not None:
            goal, reached = f">= {at_least:g}", value >= at_least
        if value is not None and at_most is not None:
            goal, reached = f"<= {at_most:g}", value <= at_most
        row = {"part": [*self.parts][-1], "name": name, "value": value, "unit": unit}
        self.measurements.append(row | {"goal": goal, "reached": reached, "at_s": round(self._elapsed, 1)})
        self._write()
        print(f"{row['part']:<12} {_line(self.measurements[-1])}", flush=True)

    @property
    def is_good(self) -> bool:
        """Whether no part failed. Missed speed targets do not count as failures, because cards differ."""
        return not self.failures

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _write(self) -> None:
        content = {
            "environment": self.environment,
            "seconds": round(self._elapsed, 1),
            "parts": self.parts,
            "failures": self.failures,
            "measurements": self.measurements,
        }
        write_atomically(self._folder / "gpu_check.json", json.dumps(content, indent=2) + "\n")
        write_atomically(self._folder / "gpu_check.md", self._table())

    def _table(self) -> str:
        about = ", ".join(f"{name} {value}" for name, value in self.environment.items() if value)
        lines = ["# GPU check", "", about, ""]
        lines += [f"- {name}: {state}" for name, state in self.parts.items()]
        lines += [f"- failed: {failure}" for failure in self.failures]
        lines += ["", "| part | measurement | value | goal | reached |", "|---|---|---|---|---|"]
        for row in self.measurements:
            reached = {True: "yes", False: "no", None: ""}[row["reached"]]
            value = f"{_number(row['value'])} {row['unit']}".strip()
            lines.append(f"| {row['part']} | {row['name']} | {value} | {row['goal']} | {reached} |")
        return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    missed = "   MISSED" if row["reached"] is False else ""
    goal = f"   (goal {row['goal']})" if row["goal"] else ""
    return f"{row['name']:<58} {_number(row['value'])} {row['unit']}{goal}{missed}"


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4g}"


def _commit() -> str:
    try:
        return subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
