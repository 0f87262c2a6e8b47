"""Simulated machines (Linux namespaces): own network address, folders, processes and name, connected by a bridge."""

import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

HOME = "/tmp/home"
START_LIMIT_S = 10.0

# What is left of the disk can only be read: the installed software, as an image would bring it. Process 1 of a
# machine ends with this program, and everything on the machine with it; the loop collects ended orphans.
BOOT = f"""
set -e
hostname "$1"
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /dev/shm
mkdir {HOME}
mount -o remount,bind,ro /
ip link set lo up
touch /tmp/booted
while :; do sleep 1; done
"""


def why_not() -> str | None:
    """Why machines cannot be simulated here; None if they can."""
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    missing = [tool for tool in ("ip", "unshare", "nsenter") if shutil.which(tool) is None]
    if missing:
        return f"{' and '.join(missing)} missing (Debian: iproute2, util-linux)"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True
    )
    if tried.returncode:
        return f"the kernel refuses new namespaces: {tried.stderr.strip()}"
    return None


class Network:
    """A bridge with this machine as .1; leaving it ends all machines.

    Raises:
        subprocess.CalledProcessError: the kernel has no bridges or no virtual links.
    """

    def __init__(self, prefix: str = "10.213.77") -> None:
        self.prefix = prefix
        self.gateway = f"{prefix}.1"
        self.bridge = f"sdavs{os.getpid() % 10**6}"
        self._numbers = itertools.count(11)
        self._machines: list[Machine] = []

    def __enter__(self) -> "Network":
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("addr", "add", f"{self.gateway}/24", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")
        return self

    def __exit__(self, *_: Any) -> None:
        for machine in self._machines:
            machine.end()
        _ip("link", "del", self.bridge)

    def add(self, name: str) -> "Machine":
        """Boot a machine."""
        number = next(self._numbers)
        self._machines.append(
            Machine(
                name, address=f"{self.prefix}.{number}", bridge=self.bridge, link=f"{self.bridge}.{number}"
            )
        )
        return self._machines[-1]


class Machine:
    """A simulated machine; see `Network.add`."""

    def __init__(self, name: str, *, address: str, bridge: str, link: str) -> None:
        self.name = name
        self.address = address
        self._link = link
        apart = ["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._outer = subprocess.Popen(["unshare", *apart, "sh", "-c", BOOT, "sh", name])
        self._first = self._first_process()
        while self.run("test", "-e", "/tmp/booted").returncode:
            if self._outer.poll() is not None:
                raise RuntimeError(f"the machine {name} did not boot; see above")
            time.sleep(0.05)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(self._first))
        _ip("link", "set", link, "master", bridge, "up")
        self.run("ip", "addr", "add", f"{address}/24", "dev", "eth0", check=True)
        self.run("ip", "link", "set", "eth0", "up", check=True)

    def command(self, *words: str, environment: Mapping[str, str] | None = None) -> list[str]:
        """A command line that runs `words` on the machine, with that environment and nothing else in it."""
        own = {"PATH": os.environ["PATH"], "HOME": HOME, "LANG": "C.UTF-8"} | dict(environment or {})
        enter = ["nsenter", "--target", str(self._first), "--net", "--mount", "--uts", "--ipc", "--pid"]
        return [*enter, "env", "-i", f"--chdir={HOME}", *(f"{k}={v}" for k, v in own.items()), *words]

    def run(
        self,
        *words: str,
        environment: Mapping[str, str] | None = None,
        check: bool = False,
        text: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        line: Sequence[str] = self.command(*words, environment=environment)
        return subprocess.run(line, input=text, capture_output=True, text=True, check=check)

    def cut(self) -> None:
        """Take its network cable out: what it sends, and what is sent to it, is lost."""
        _ip("link", "set", self._link, "down")

    def heal(self) -> None:
        """Put the cable back."""
        _ip("link", "set", self._link, "up")

    def end(self) -> None:
        """Switch it off."""
        self._outer.kill()
        self._outer.wait()

    def _first_process(self) -> int:
        deadline = time.monotonic() + START_LIMIT_S
        while not (children := psutil.Process(self._outer.pid).children()):
            assert time.monotonic() < deadline, f"{self.name} did not boot"
            time.sleep(0.02)
        return children[0].pid


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
