"""What a process that serves asks of the interpreter, the C library and the system."""

import ctypes
import gc
import resource
from contextlib import suppress
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""mallopt(3): what free memory is returned at, and what allocations are mappings of their own. Bytes."""
_GARBAGE_ALLOCATIONS: Final = 10_000
_GARBAGE_YOUNG: Final = 20
_MIB: Final = 1 << 20


def tune_memory() -> None:
    """Keep what is freed for the next body, and do not look for garbage in what was imported.

    Returning megabytes to the system and having them zeroed again was a tenth of a request of a thousand files, and
    one full collection takes 50 ms of whatever request it falls into. What is kept is what was in use at some time.
    A thousand rows are no reason to look for cycles a dozen times, as the interpreter's defaults do.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_ALLOCATIONS, _GARBAGE_YOUNG, _GARBAGE_YOUNG)
    with suppress(AttributeError, OSError):  # the C library is not glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 * _MIB)
        mallopt(_M_TRIM_THRESHOLD, 64 * _MIB)


def most_files() -> int:
    """Return how many files we may open: the soft limit, often 1,024, is a courtesy to programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if hard == resource.RLIM_INFINITY else max(soft, hard)
