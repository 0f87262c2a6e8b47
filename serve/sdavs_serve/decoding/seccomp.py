"""A system call filter for decoders: no other processes, no network, whatever a file makes FFmpeg do.

Resource limits and closed descriptors (`fork_server.py`) keep a decoder from files. Without this filter one that was
taken over could still read and signal other processes of the same user, or start its own. Written with `prctl` because
the libraries for it (libseccomp) need one more system package. Linux's man page seccomp(2) explains the structures.
"""

import ctypes
import os
import platform
import struct

PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 4, 38, 22, 2

ALLOW, DENY = 0x7FFF0000, 0x00050000
"""SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO, to which the number of an error is added."""

EPERM, ENOSYS = 1, 38

CLONE_THREAD = 0x00010000

X32 = 0x40000000
"""From this number on x86-64 takes calls of its other ABI, which the filter would not recognize."""

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH of the machines that the numbers below are for."""

FORBIDDEN: dict[str, tuple[int, int | None]] = {
    # Other processes: read, write, signal.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kill": (62, 129),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    # Other processes of the same user: slow them down, move them. `prlimit64` is below.
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # Its own limits stay what they are.
    "setrlimit": (160, 164),
    # New processes; `clone` is allowed for threads.
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    # Network.
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    # Wide parts of the kernel that decoding has no use for.
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "chroot": (161, 51),
}
"""Numbers on x86-64 and on aarch64; None where there is no such call."""

CLONE, CLONE3, TGKILL, PRLIMIT = (56, 220), (435, 435), (234, 131), (302, 261)


def is_supported() -> bool:
    """Whether `restrict` supports this machine."""
    return platform.system() == "Linux" and platform.machine() in ARCHITECTURES


def isolate() -> None:
    """No program that this process runs gets more rights, and no other process of its user may read or trace it.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((PR_SET_DUMPABLE, 0), (PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, value, 0, 0, 0):
            raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def restrict() -> None:
    """Forbid the calls to this process and all its threads, for good; they fail with EPERM. After `isolate`.

    Raises:
        OSError: the kernel has no seccomp filters.
    """
    assert is_supported()
    program = _program(platform.machine(), os.getpid())

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    code = ctypes.create_string_buffer(program, len(program))
    libc = ctypes.CDLL(None, use_errno=True)
    argument = ctypes.byref(Program(len(program) // 8, ctypes.cast(code, ctypes.c_void_p)))
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, argument, 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel does not accept the system call filter")


def _program(machine: str, pid: int) -> bytes:
    """The filter as BPF. Offsets in `seccomp_data`: number 0, architecture 4, first argument 16, third one 32."""
    column = list(ARCHITECTURES).index(machine)
    program = [
        _load(4),
        *_unless_equal(ARCHITECTURES[machine], DENY + EPERM),
        _load(0),
    ]
    if machine == "x86_64":
        program += [_jump(0x35, X32, then=0, otherwise=1), _return(DENY + EPERM)]
    for numbers in FORBIDDEN.values():
        if (number := numbers[column]) is not None:
            program += _if_equal(number, [_return(DENY + EPERM)])
    # glibc falls back to `clone`, whose flags can be read here.
    program += _if_equal(CLONE3[column], [_return(DENY + ENOSYS)])
    threads_only = [_load(16), _jump(0x45, CLONE_THREAD, then=1, otherwise=0), _return(DENY + EPERM)]
    program += _if_equal(CLONE[column], [*threads_only, _return(ALLOW)])
    # abort() signals its own process.
    program += _if_equal(TGKILL[column], [_load(16), *_unless_equal(pid, DENY + EPERM), _return(ALLOW)])
    # Reading limits is how glibc finds the size of a stack; a third argument sets them, also those of other processes.
    no_new_limits = [part for half in (32, 36) for part in (_load(half), *_unless_equal(0, DENY + EPERM))]
    program += _if_equal(PRLIMIT[column], [*no_new_limits, _return(ALLOW)])
    return b"".join([*program, _return(ALLOW)])


def _load(offset: int) -> bytes:
    return struct.pack("HBBI", 0x20, 0, 0, offset)


def _return(value: int) -> bytes:
    return struct.pack("HBBI", 0x06, 0, 0, value)


def _jump(code: int, value: int, *, then: int, otherwise: int) -> bytes:
    """A comparison (0x15 equal, 0x35 greater or equal, 0x45 bits set) and how many instructions to skip."""
    return struct.pack("HBBI", code, then, otherwise, value)


def _if_equal(value: int, then: list[bytes]) -> list[bytes]:
    return [_jump(0x15, value, then=0, otherwise=len(then)), *then]


def _unless_equal(value: int, returned: int) -> list[bytes]:
    return [_jump(0x15, value, then=1, otherwise=0), _return(returned)]
