"""The process that decoders are forked from: `python -m sdavs_serve.decoding.fork_server FD`.

Started by `sandboxed_decoders.py`.

It has imported what decoding needs and has seen no upload yet, so a fork takes milliseconds and holds nothing of
other clients. Each upload gets two forks: a supervisor, and under it the decoder itself, which gives up its rights
before it reads the first byte.
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
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the supervisors
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not message:
            return
        if os.fork() == 0:
            control.close()
            connection, file = socket.socket(fileno=descriptors[0]), descriptors[1]
            _supervise(connection, file, root=root if changes_user else None)
        for descriptor in descriptors:
            os.close(descriptor)


def _supervise(connection: socket.socket, file: int, *, root: own_user.EmptyRoot | None) -> None:
    """Fork the decoder, and report how it died if it did. Never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            decoder.run(connection, file, confine=functools.partial(_confine, root=root))
            status = 0
        except BrokenPipeError:
            status = 0  # the client has gone
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _kill_without_client(child, connection)
    _, ended = os.waitpid(child, 0)
    if ended:
        died = {"signal": os.WTERMSIG(ended) if os.WIFSIGNALED(ended) else 0}
        with contextlib.suppress(OSError):
            protocol.send(connection, protocol.Message(what="died", body=died))
    os._exit(0)


def _kill_without_client(decoder: int, connection: socket.socket) -> None:
    """Wait for the end of the decoder; kill it if the ingress closes the connection, however busy it is."""
    ends = os.pidfd_open(decoder)
    poll = select.poll()
    poll.register(ends, select.POLLIN)
    poll.register(connection, select.POLLRDHUP)
    if ends not in (descriptor for descriptor, _ in poll.poll()):
        os.kill(decoder, signal.SIGKILL)


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
