"""Less time for memory on a CPU: the allocator keeps what it frees, and maps are written over where that is safe.

On a CPU new memory costs more than arithmetic. A map of the largest level has 47 MB at the paper's sizes (five frames
of 96 x 96 positions, 256 channels): to multiply it takes 2 ms in place, and 20 ms into new memory.
"""

import ctypes
import platform

import torch

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


def may_overwrite() -> bool:
    """Whether a module may write its result over a map: in inference, where no backward pass needs the map.

    torch's compiler plans memory itself and has to see every map as it was.
    """
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling())
