"""Processes that outlive their parent: start one in its own session, know it again, end it with its children."""

import contextlib
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

GRACE_S = 10.0
"""Seconds between asking a process tree to end and killing what is left of it."""


class Service(BaseModel):
    """A process that this checkout started. The start time tells it from a later process of the same number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pid: int
    started: float

    def is_alive(self) -> bool:
        return self._process() is not None

    def stop(self) -> None:
        """End the process and everything below it; returns when all of it is gone."""
        parent = self._process()
        if parent is None:
            return
        family = {process.pid: process for process in [parent, *parent.children(recursive=True)]}
        parent.terminate()
        deadline = time.monotonic() + GRACE_S
        while parent.is_running() and time.monotonic() < deadline:
            # Children started meanwhile count too, wherever they went; once the parent is gone nobody could list them.
            family |= {child.pid: child for child in _descendants(parent)}
            psutil.wait_procs([parent], timeout=0.2)
        # Started in the instant in which the parent ended.
        family |= {orphan.pid: orphan for orphan in _session_of(self.pid)}
        _, left = psutil.wait_procs(list(family.values()), timeout=1.0)
        for process in left:
            _kill(process)
        psutil.wait_procs(left, timeout=GRACE_S)

    def _process(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def start(
    command: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    log: Path,
    user: str | None = None,
) -> Service:
    """Start a command that survives this process and its terminal; its output is appended to `log`.

    Args:
        user: to run it as, where this process is root's; None for oneself.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # Services import a lot; cached bytecode starts them several times as fast.
    inherited = {key: value for key, value in environment.items() if key != "PYTHONDONTWRITEBYTECODE"}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=inherited,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=[] if user else None,
        )
    return Service(pid=process.pid, started=psutil.Process(process.pid).create_time())


def stop_children() -> None:
    """End what this process has started and still runs, also what it was interrupted over before it knew of it."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            Service(pid=child.pid, started=child.create_time()).stop()


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def next_free(port: int) -> int:
    """The first free port from `port` upwards.

    Raises:
        RuntimeError: none among 200.
    """
    for candidate in range(port, port + 200):
        if is_free(candidate):
            return candidate
    raise RuntimeError(f"ports {port} to {port + 199} are all taken on 127.0.0.1")


def ask(url: str, headers: Mapping[str, str] | None = None) -> bytes | None:
    """The body of a 200 from a server on this machine, past any proxy; None while it gives no such answer."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(urllib.request.Request(url, headers=dict(headers or {})), timeout=5) as reply:
            return reply.read()
    except OSError:
        return None


def tail(log: Path, num_lines: int = 15) -> str:
    """The end of a log file, for an error message."""
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return os.linesep.join(lines[-num_lines:])


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _session_of(leader: int) -> list[psutil.Process]:
    """The processes that were started in this one's session, which bears its number even when it is gone."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(process.pid) == leader:
                found.append(process)
    return found


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
