"""Only one command at a time trains under a name: its lease is a file in the training's folder in the storage.

The holder renews the lease every few seconds. A lease that is not renewed belongs to a command that has died, and the
next one takes it. The reader measures this with its own clock, because the clocks of machines differ.
"""

import getpass
import json
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psutil

from sdavs_platform.storage.filesystem import Storage

logger = logging.getLogger(__name__)

LEASE_FILE = "lease.json"


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who trains."""

    id: str
    """Random id of the command."""
    user: str
    host: str
    pid: int
    process_started: float
    """Start time of the process, which identifies it together with `pid`: process ids are reused."""
    boot: str
    """Boot id of the machine's kernel: another machine may have the same name."""
    since: str
    """UTC."""
    renewals: int

    def __str__(self) -> str:
        return f"{self.user} on {self.host} (process {self.pid}) since {self.since}"

    @property
    def has_ended(self) -> bool:
        """Whether its process is known to have ended; only known for processes of this machine."""
        if (self.host, self.boot) != (socket.gethostname(), _boot()):
            return False
        try:
            return psutil.Process(self.pid).create_time() != self.process_started
        except psutil.NoSuchProcess:
            return True


class Lease:
    """Between `acquire` and `release` this command is the only one that trains under the name.

    Args:
        storage: address of the trainings; the lease is in the folder of this one.
        name: of the training.
        takes_over: take a lease that another command still renews. That command notices and ends its training.
        renew_s: between renewals.
        expire_s: a lease that is not renewed for so long is free. It need not outlast a restart of the storage:
            while that is away, nobody else can take the lease either.

    Attributes:
        is_lost: whether another command has taken the lease over.
        on_lost: called then, in a thread of the lease's own.
    """

    def __init__(
        self,
        storage: str,
        name: str,
        *,
        takes_over: bool = False,
        renew_s: float = 10.0,
        expire_s: float = 60.0,
    ) -> None:
        self._storage = Storage(storage, field="storage.uri")
        self._file = f"{name}/{LEASE_FILE}"
        self._name = name
        self._takes_over = takes_over
        self.is_lost = False
        self.on_lost: Callable[[], None] = lambda: None
        self._renew_s, self._expire_s = renew_s, expire_s
        self._holder = _this_process()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def acquire(self) -> None:
        """Take the lease, and keep it.

        Raises:
            ValueError: another command holds it, or the storage cannot be reached or written.
        """
        self._storage.require()
        content = self._storage.read(self._file)
        while not self._try_take(content):
            content = self._storage.read(self._file)
        self._thread.start()

    def release(self) -> None:
        """Give the lease back, unless it is lost."""
        self._is_over.set()
        self._thread.join()
        try:
            self._storage.delete_if(self._file, expected=_written(self._holder))
        except ValueError as error:  # it expires
            logger.warning("%s: could not release the lease: %s", self._name, error)

    def require(self) -> None:
        """Raises RuntimeError if another command has taken the lease over."""
        if self.is_lost:
            raise RuntimeError(f"name: another command has taken over {self._name!r}")

    def _try_take(self, content: bytes | None) -> bool:
        """Take the lease, given its file's content; False if another command was faster."""
        if content == _written(self._holder):
            return True  # by an attempt whose reply was lost
        if content is not None:
            holder = Holder(**json.loads(content))
            if not (holder.has_ended or self._takes_over or self._has_expired(content, holder)):
                raise ValueError(
                    f"name: {self._name!r} is already being trained by {holder}; wait until it ends, "
                    f"choose another --name, or stop it with --take-over"
                )
        return self._storage.replace(self._file, _written(self._holder), expected=content)

    def _has_expired(self, content: bytes, holder: Holder) -> bool:
        logger.info("%s: checking whether %s is still training", self._name, holder)
        deadline = time.monotonic() + self._expire_s
        while time.monotonic() < deadline:
            time.sleep(min(1.0, self._renew_s / 4))
            if self._storage.read(self._file) != content:
                return False
        return True

    def _keep(self) -> None:
        while not self._is_over.wait(self._renew_s):
            try:
                is_kept = self._renew()
            except ValueError as error:
                logger.warning("%s: the lease could not be renewed: %s", self._name, error)
                continue
            if not is_kept:
                self.is_lost = True
                self.on_lost()
                return

    def _renew(self) -> bool:
        """Write the next renewal; returns whether the lease is still this command's."""
        renewed = replace(self._holder, renewals=self._holder.renewals + 1)
        if self._storage.replace(self._file, _written(renewed), expected=_written(self._holder)):
            self._holder = renewed
            return True
        content = self._storage.read(self._file)
        if content == _written(renewed):  # written by an attempt whose reply was lost
            self._holder = renewed
        # The same as before: the server was busy, and the next attempt renews it.
        return content == _written(self._holder)


def _this_process() -> Holder:
    process = psutil.Process()
    return Holder(
        id=secrets.token_hex(8),
        user=getpass.getuser(),
        host=socket.gethostname(),
        pid=process.pid,
        process_started=process.create_time(),
        boot=_boot(),
        since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        renewals=0,
    )


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _written(holder: Holder) -> bytes:
    return json.dumps(asdict(holder), indent=2).encode()
