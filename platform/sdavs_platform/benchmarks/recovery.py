"""Measures the time to a training's first step, and from the death of a worker to the next step.

The training is `jobs/train.py` with a Ray cluster, MLflow records and a storage of its own in a temporary folder. What
it prints and which worker processes it has tells where the time goes.
"""

import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from sdavs_platform.config.paths import CHECKOUT
from sdavs_platform.tables import text_table
from sdavs_platform.tracking.runs import TrainingRun

NAME = "recovery"
CHECKPOINT_EVERY = 3
"""Steps; the last of them before the worker's death are computed again."""
NUM_CHECKPOINTS = 3
"""Written before the worker is killed."""
LIMIT_S = 300.0
POLL_S = 0.05

_OPENED = re.compile(r"MLflow run \w+ at ")
_READY = re.compile(r": (?:starting|resuming after step (\d+)) \|")
_STEP = re.compile(r"\bstep (\d+)/\d+ \|")


@dataclass
class Moments:
    """When things happened, in seconds of one clock; None is "not yet"."""

    began: float
    """The command was submitted, or the worker killed."""
    opened: float | None = None
    """Config and data were checked, and the MLflow run is open. Only at the first start."""
    placed: float | None = None
    """Ray Train has new worker processes."""
    ready: float | None = None
    """The workers have their engine, and the state of a checkpoint if there is one."""
    stepped: float | None = None
    """A step is done."""
    resumed_after: int = 0
    """The step of that checkpoint."""
    steps: list[int] = field(default_factory=list)
    """Those seen."""

    def note_line(self, line: str, at: float) -> None:
        """A line that the training printed."""
        if self.opened is None and _OPENED.search(line):
            self.opened = at
        if self.ready is None and (ready := _READY.search(line)):
            self.ready, self.resumed_after = at, int(ready[1] or 0)
        if self.ready is not None and (step := _STEP.search(line)):
            self.steps.append(int(step[1]))
            self.stepped = self.stepped or at

    def phases(self) -> dict[str, float]:
        """Seconds of each phase, in order, and of all; only when a step is done."""
        names = {
            "imports, checks, MLflow run": self.opened,
            "Ray, worker processes": self.placed,
            "workers' imports, model, engine": self.ready,
            "first step": self.stepped,
        }
        found, last = {}, self.began
        for name, moment in names.items():
            if moment is not None:
                found[name] = moment - last
                last = moment
        return found | {"total": last - self.began}


def measure(config: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train, kill a worker, and wait for the step after that.

    Args:
        config: a training's YAML file.
        overrides: further flags of `jobs/train.py`.

    Returns:
        {"start", "recovery": {phase: seconds}, "steps_again": how many steps were lost, "checkpoint_ms": {"median",
        "largest", "number"}}.

    Raises:
        ValueError: the training ended, or nothing happened for `LIMIT_S` seconds; with its last lines.
    """
    with tempfile.TemporaryDirectory(prefix="sdavs-recovery-") as folder:
        storage, uri = f"{folder}/results", f"sqlite:///{folder}/mlflow.db"
        training = _Training(
            [
                *(sys.executable, str(CHECKOUT / "jobs" / "train.py"), "--config", config, "--name", NAME),
                *("--cluster.address", "local", "--storage.uri", storage, "--tracking.uri", uri),
                *("--training.log_every", "1", "--training.checkpoint_every", str(CHECKPOINT_EVERY)),
                *("--training.epochs", "1000", "--training.val_every", "1000"),
                *overrides,
            ]
        )
        try:
            start = training.moments
            training.wait(lambda: len(start.steps) > CHECKPOINT_EVERY * NUM_CHECKPOINTS + 1)
            last_step = start.steps[-1]
            recovery = training.kill_a_worker()
            training.wait(lambda: recovery.stepped is not None)
        finally:
            training.end()
        run = TrainingRun.find(NAME, storage=storage, uri=uri)
        assert run is not None
        # A point is the mean over the steps since the one before; here each is of one step.
        blocked = [1000 * seconds for _, seconds in run.history("time/checkpoint") if seconds > 0]
    return {
        "start": start.phases(),
        "recovery": recovery.phases(),
        "steps_again": last_step - recovery.resumed_after,
        "checkpoint_ms": {
            "median": statistics.median(blocked) if blocked else None,
            "largest": max(blocked, default=None),
            "number": len(blocked),
        },
    }


def results_table(report: dict[str, Any]) -> str:
    """The phases of both, and what a checkpoint blocks."""
    start, recovery, blocked = report["start"], report["recovery"], report["checkpoint_ms"]
    rows = [
        [name, f"{seconds:.1f}", f"{recovery[name]:.1f}" if name in recovery else None]
        for name, seconds in start.items()
    ]
    lines = [
        text_table(["seconds", "from the command", "from a killed worker"], rows),
        f"{report['steps_again']} steps are computed again",
    ]
    if blocked["median"] is not None:
        lines.append(
            f"a checkpoint blocks {blocked['median']:.0f} ms (median of {blocked['number']}), "
            f"at most {blocked['largest']:.0f} ms"
        )
    return "\n".join(lines)


class _Training:
    """A running command, its lines and its worker processes."""

    def __init__(self, command: Sequence[str]) -> None:
        self.moments = Moments(began=time.monotonic())
        self._lines: list[str] = []
        self._known: set[int] = set()
        # In a session of its own, so that nothing of it can outlive `end`.
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait(self, is_done: Any) -> None:
        """Wait until `is_done()`, and record when new workers appear."""
        deadline = time.monotonic() + LIMIT_S
        while not is_done():
            if self.moments.placed is None and {w.pid for w in self._workers()} - self._known:
                self.moments.placed = time.monotonic()
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ValueError("the training ended too early:\n" + "".join(self._lines[-30:]))
            time.sleep(POLL_S)

    def kill_a_worker(self) -> Moments:
        """Kill the last one; returns what is noted from now on."""
        workers = self._workers()
        self._known = {worker.pid for worker in workers}
        # Its opening lies before: the run stays open.
        self.moments = Moments(began=time.monotonic())
        workers[-1].send_signal(signal.SIGKILL)
        return self.moments

    def end(self) -> None:
        """End the command and all its processes."""
        family = psutil.Process(self._process.pid).children(recursive=True) if self._is_alive else []
        self._process.terminate()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
        for process in family:
            if process.is_running():
                process.kill()
        self._reader.join(timeout=10)

    @property
    def _is_alive(self) -> bool:
        return self._process.poll() is None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)
            self.moments.note_line(line, time.monotonic())

    def _workers(self) -> list[psutil.Process]:
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            try:
                if "RayTrainWorker" in process.name() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return sorted(found, key=lambda process: process.pid)
