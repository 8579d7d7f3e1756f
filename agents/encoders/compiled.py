"""Loops over arrays that numba compiles."""

from __future__ import annotations

import functools
from collections.abc import Callable


@functools.cache
def compiled(loop: Callable[..., None]) -> Callable[..., None]:
    """`loop`, compiled when it is first called, and kept on disk where there is a place for it."""
    import numba

    try:
        return numba.njit(cache=True, nogil=True)(loop)
    except RuntimeError:  # no folder that can be written
        return numba.njit(nogil=True)(loop)
