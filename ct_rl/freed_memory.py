"""Keeps the memory of freed tensors in the process, for learning and acting on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys

# glibc's names (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_NEVER = -1  # as a threshold
_OWN_SETTINGS = (
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "GLIBC_TUNABLES",
)
ARENAS = "MALLOC_ARENA_MAX"


def keep_freed_memory() -> bool:
    """Has glibc keep what this process frees; returns whether it does.

    A tensor of more than 32 MiB, as a minibatch of frames in float32 is, otherwise comes as fresh pages of the
    kernel's every time, each of which faults and is zeroed, and goes back when it is freed. The process then holds
    what it once needed at most. Another C library is left as it is, and so is glibc where one of `_OWN_SETTINGS` is in
    the environment.

    Threads that begin from here on share one heap, unless `ARENAS` in the environment asks for more: a heap of a
    thread's own, as IMPALA's learner would have, is 64 MiB at most, and what is larger is never kept. A thread that
    begins after others may still get one of theirs: a program that learns calls this before it starts any.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _OWN_SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    if os.environ.get(ARENAS, "1") == "1":
        mallopt(_M_ARENA_MAX, 1)
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER))
