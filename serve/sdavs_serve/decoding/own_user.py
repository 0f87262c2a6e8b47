"""A separate user and root folder for each decoder, if the endpoint runs as root (a laptop, a plain container).

Root may raise its limits again, and so open files that `fork_server.py` keeps a decoder from. Under a user id that no
account has, in a folder that is empty and deleted, a decoder that was taken over may neither read nor signal any other
process, and there is no file that it could name. An endpoint that does not run as root cannot change users;
`seccomp.py` and the limits of `fork_server.py` are what confines its decoders.
"""

import os
import resource
import tempfile

USERS = range(61_184, 65_520)
"""User and group ids that no account has: systemd's range for services without one (DynamicUser=)."""

MAX_THREADS = 64
"""Of one decoder; FFmpeg starts one for each processor, up to 16."""


class EmptyRoot:
    """An empty folder without a name. Nothing can be created in it."""

    def __init__(self) -> None:
        folder = tempfile.mkdtemp(prefix="decoder-")
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        os.rmdir(folder)

    def enter(self) -> None:
        """Make it this process's root folder. Raises OSError without the capability CAP_SYS_CHROOT."""
        os.fchdir(self._descriptor)
        os.chroot(".")


def is_possible(root: EmptyRoot) -> bool:
    """Whether `become` works here; tried in a separate process, because even root may lack capabilities."""
    if os.geteuid() != 0:
        return False
    child = os.fork()
    if child == 0:
        status = 1
        try:
            become(root)
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def become(root: EmptyRoot) -> None:
    """Change to a user that no other process has, and to an empty root folder, for good.

    Raises:
        OSError: this process is not root, or lacks the capabilities.
    """
    user = USERS[os.getpid() % len(USERS)]
    root.enter()
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    # Counted for each user id: for one that has this process only, it bounds its threads.
    resource.setrlimit(resource.RLIMIT_NPROC, (MAX_THREADS, MAX_THREADS))
