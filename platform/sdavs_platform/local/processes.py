"""Processes that outlive their parent: start one in its own session, recognise it later, end it with its children."""

import contextlib
import logging
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

logger = logging.getLogger(__name__)

GRACE_S = 10.0
"""Seconds between SIGTERM and SIGKILL of a process tree."""


class Service(BaseModel):
    """A process that this checkout started, known by its number and start time: numbers are reused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pid: int
    started: float

    def is_alive(self) -> bool:
        return self._process() is not None

    def stop(self) -> None:
        """End the process and all its descendants; waits until they have ended."""
        parent = self._process()
        if parent is None:
            return
        family = {process.pid: process for process in [parent, *parent.children(recursive=True)]}
        parent.terminate()
        deadline = time.monotonic() + GRACE_S
        while parent.is_running() and time.monotonic() < deadline:
            # Children that are started meanwhile count, too; once the parent is gone they could not be listed.
            family |= {child.pid: child for child in _descendants(parent)}
            psutil.wait_procs([parent], timeout=0.2)
        # Those started at the moment when the parent ended.
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
        user: the user to run it as, if this process runs as root; None for the same user.
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
    """End all children of this process, also those whose start was interrupted before they were recorded."""
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


def choose_port(port: int, what: str) -> int:
    """The first free port from `port` upwards, logged where it is another one.

    Raises:
        RuntimeError: see `next_free`.
    """
    chosen = next_free(port)
    if chosen != port:
        logger.info("port %d is taken by another process; %s uses %d", port, what, chosen)
    return chosen


def wait_until(
    answers: Callable[[], bool], what: str, *, service: Service | None, log: Path, limit_s: float
) -> None:
    """Wait until a service responds.

    Args:
        service: its process; None if it is not ours.
        log: its output.

    Raises:
        RuntimeError: it ended, or did not answer within `limit_s` seconds; with the end of its log.
    """
    deadline = time.monotonic() + limit_s
    while not answers():
        if service and not service.is_alive():
            raise RuntimeError(f"{what} ended:\n{tail(log)}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not respond within {limit_s:g} s; see {log}")
        time.sleep(0.2)


def ask(url: str, headers: Mapping[str, str] | None = None) -> bytes | None:
    """The body of a 200 response from a server on this machine, without any proxy; None for any other response."""
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
    """The processes of the session that this process started; they keep its number after it has ended."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(process.pid) == leader:
                found.append(process)
    return found


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
