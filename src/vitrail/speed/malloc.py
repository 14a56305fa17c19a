"""Memory that is freed and soon wanted again stays with the process."""

from __future__ import annotations

import ctypes
import platform

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_HIGHEST = 2**31 - 1
_kept = False


def keep_freed_memory() -> bool:
    """Ask the C library to keep what is freed instead of giving it back to the system, for the whole process.

    By default glibc returns large blocks at once, so every step of a training on a CPU gets its activations as fresh
    pages, which the system must find and clear first. Kept, a small model trains about 15 % faster (measured: width
    128, 25 tokens, batch 64). The process then holds on to the most memory that it ever used.

    Returns:
        Whether it was done; only glibc has the setting.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    global _kept
    library = ctypes.CDLL(None)
    _kept = all(library.mallopt(name, _HIGHEST) == 1 for name in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))
    return _kept


def freed_memory_is_kept() -> bool:
    """Whether this process has asked for it, and got it."""
    return _kept
