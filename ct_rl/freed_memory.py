"""Keeps the memory of freed tensors in the process, for learning on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys

# glibc's names (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1  # bytes that an option of glibc's can say
_LARGEST_OF_OLD = 2**25  # bytes; older releases take no larger threshold
_OWN_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Has glibc keep what this process frees; returns whether it does.

    A tensor of more than 32 MiB, as a minibatch of frames in float32 is, otherwise comes as fresh pages of the
    kernel's every time, each of which faults and is zeroed, and goes back when it is freed. The process then holds
    what it once needed at most. Another C library is left as it is, and so is glibc where one of `_OWN_SETTINGS` is in
    the environment.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _OWN_SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = any(mallopt(_M_MMAP_THRESHOLD, size) for size in (_LARGEST, _LARGEST_OF_OLD))
    return bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST)) and kept
