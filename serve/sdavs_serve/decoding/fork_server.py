"""The process that decoders are forked from: `python -m sdavs_serve.decoding.fork_server FD`.

Started by `sandboxed_decoders.py`.

It has imported what decoding needs and has seen no upload yet, so a fork takes milliseconds and holds nothing of
other clients. Each upload gets a fork of its own, the decoder, which gives up its rights before it reads the first
byte. This process watches all of them: it reports how one died, and kills those whose client has gone.
"""

import contextlib
import functools
import importlib
import io
import os
import pkgutil
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import av
import numpy as np
from PIL import Image

from sdavs_serve.decoding import decoder, own_user, protocol, seccomp
from sdavs_serve.decoding.pictures import STILLS, decode_picture


def main(control: socket.socket) -> None:
    """Fork a decoder for every pair of descriptors (connection, file) received; exit with the ingress."""
    _warm_up()
    if not seccomp.is_supported():
        print("decoders run without a system call filter on this machine", file=sys.stderr)
    root = own_user.EmptyRoot()
    changes_user = own_user.is_possible(root)
    if os.geteuid() == 0 and not changes_user:
        print("decoders run as root: the capabilities to change user and root are missing", file=sys.stderr)
    decoders = _Decoders(control, root=root if changes_user else None)
    while decoders.serve():
        pass


@dataclass(kw_only=True)
class _Child:
    pid: int
    ends: int
    """Descriptor of the process, readable when it has ended."""
    connection: socket.socket
    reports: bool
    """Not a decoder, but a process that reports the death of one."""
    abandoned: bool = False
    """Its client has gone."""


class _Decoders:
    """The running decoders."""

    def __init__(self, control: socket.socket, *, root: own_user.EmptyRoot | None) -> None:
        """
        Args:
            control: brings pairs of descriptors (connection, file).
            root: for `own_user.become`; None: the user stays the same.
        """
        self._control = control
        self._root = root
        self._children: dict[int, _Child] = {}
        """By both of its descriptors."""
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def serve(self) -> bool:
        """Wait for something to happen, and handle it; False when the ingress has ended."""
        happened = [descriptor for descriptor, _ in self._poll.poll()]
        for descriptor in happened:
            # None: a connection that was closed a moment ago, with the end of its decoder.
            if child := self._children.get(descriptor):
                if descriptor == child.ends:
                    self._end(child)
                else:
                    self._abandon(child)
        # Last, because a new connection may get the number of one that has just been closed.
        return self._control.fileno() not in happened or self._receive()

    def _receive(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self._control, 1, 2)
        if not message:
            for child in {child.pid: child for child in self._children.values()}.values():
                os.kill(child.pid, signal.SIGKILL)
            return False
        connection, file = socket.socket(fileno=descriptors[0]), descriptors[1]
        confine = functools.partial(_confine, root=self._root)
        self._fork(connection, lambda: decoder.run(connection, file, confine=confine))
        os.close(file)
        return True

    def _fork(self, connection: socket.socket, work: Callable[[], None], *, reports: bool = False) -> None:
        """Work in a process of its own, without the descriptors of other clients."""
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for child in self._children.values():
                    for descriptor in {child.ends, child.connection.fileno()} - {connection.fileno()}:
                        with contextlib.suppress(OSError):
                            os.close(descriptor)
                self._control.close()
                work()
                status = 0
            except BrokenPipeError:
                status = 0  # the client has gone
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        child = _Child(pid=pid, ends=os.pidfd_open(pid), connection=connection, reports=reports)
        self._children |= {child.ends: child, connection.fileno(): child}
        self._poll.register(child.ends, select.POLLIN)
        self._poll.register(connection, select.POLLRDHUP)

    def _end(self, child: _Child) -> None:
        """Forget a process that has ended; a decoder that died is reported to its client."""
        _, ended = os.waitpid(child.pid, 0)
        self._poll.unregister(child.ends)
        del self._children[child.ends], self._children[child.connection.fileno()]
        os.close(child.ends)
        if not child.abandoned:
            self._poll.unregister(child.connection)
        if ended and not child.abandoned and not child.reports:
            died = {"signal": os.WTERMSIG(ended) if os.WIFSIGNALED(ended) else 0}
            message = protocol.Message(what="died", body=died)
            # In another process: sending waits for the client to read what the decoder sent before.
            self._fork(child.connection, lambda: protocol.send(child.connection, message), reports=True)
        else:
            child.connection.close()

    def _abandon(self, child: _Child) -> None:
        """Kill a process, however busy it is, because the ingress has closed its connection."""
        child.abandoned = True
        self._poll.unregister(child.connection)
        os.kill(child.pid, signal.SIGKILL)


def _confine(job: decoder.Job, file_size: int, *, root: own_user.EmptyRoot | None) -> None:
    """Limit memory and time, and give up the right to files, connections and other processes, for good.

    Args:
        job: has the limits.
        file_size: bytes of the upload.
        root: for `own_user.become`; None: the user stays the same.
    """
    with open("/proc/self/statm") as statm:
        in_use = int(statm.read().split()[0]) * resource.getpagesize()
    memory = in_use + file_size + round(job.limits.decoder_memory_mb * 1e6)
    _lower(resource.RLIMIT_AS, memory)
    _lower(resource.RLIMIT_CPU, max(1, round(job.limits.decoder_cpu_s)))
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_CORE, 0)
    # No descriptor is free: whatever a file makes FFmpeg open, it gets an error.
    _lower(resource.RLIMIT_NOFILE, 0)
    signal.alarm(max(1, round(job.limits.timeout_s)))
    if root is not None:
        own_user.become(root)
    seccomp.isolate()
    if seccomp.is_supported():
        seccomp.restrict()


def _lower(what: int, limit: int) -> None:
    resource.setrlimit(what, (limit, limit))


def _warm_up() -> None:
    """Load what PyAV and Pillow would load on first use; a confined process cannot import."""
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    Image.init()
    for kind in STILLS:
        file = io.BytesIO()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, kind)
        decode_picture(file.getvalue(), max_pixels=100, field="")


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
