"""Sizes are checked before anything large is allocated."""

import os

from geomlib.errors import DataError

__all__ = ["available_memory", "require_memory"]


def available_memory() -> int:
    """Bytes of main memory that can be had now (total memory where the system does not tell)."""
    names = os.sysconf_names
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in names else "SC_PHYS_PAGES"
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf(pages)
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123 - a kernel interface, not a path of ours
            for line in file:
                if line.startswith("MemAvailable:"):
                    available = int(line.split()[1]) * 1024
    except OSError:
        return available
    return available


def require_memory(
    needed: int, what: str, remedy: str = "use a smaller cutoff, a smaller structure or smaller batches"
) -> None:
    """Raise unless `needed` bytes fit in the memory that is available.

    Args:
        needed: bytes.
        what: what they are for, for the message.
        remedy: what to do where they do not fit.

    Raises:
        DataError: they do not fit.
    """
    if needed < 2**28:  # not worth asking the system
        return
    available = available_memory()
    if needed > available:
        raise DataError(
            f"{what} needs about {needed / 2**30:.1f} GiB but {available / 2**30:.1f} GiB are free: {remedy}"
        )
