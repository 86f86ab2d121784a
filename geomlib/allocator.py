"""Have the C library keep freed memory, for processes that are geomlib's own (the command line, benchmarks).

Training and inference free and allocate the same large tensors at every step. glibc hands blocks above 32 MiB back to
the system each time, and faulting the pages in again costs more than the arithmetic on them. A library must not change
this for the program that imports it, so nothing calls it at import.
"""

import ctypes

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Stop glibc from returning freed memory to the system; returns False where the C library has no such switch."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, -1) and mallopt(_M_MMAP_MAX, 0))
