"""How the C library's allocator treats the maps that a model computes on a CPU."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGEST_MMAP_THRESHOLD = 32 * 2**20
"""glibc's limit on 64 bits."""
TOP_PAD = 64 * 2**20
"""By how much the heap grows at a time."""


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, and use it again.

    By default glibc returns maps of some megabytes to the system as soon as they are freed, and each step or clip then
    waits for the same pages to be mapped, and zeroed, again: a sixth of a training step of the demo. The process never
    holds more than it needed at its peak.

    Returns:
        True if the allocator is glibc's, which alone has these settings.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    largest = ctypes.c_int(2**31 - 1)
    return all(
        [
            mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD),
            mallopt(M_TRIM_THRESHOLD, largest),
            mallopt(M_TOP_PAD, TOP_PAD),
        ]
    )
