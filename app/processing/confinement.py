"""What keeps a child process in its place: limits of the system, set once at its start, and its output led aside."""

import ctypes
import math
import os
import resource
import signal
import sys
from typing import BinaryIO, Final

_NICENESS: Final = 10
"""Whoever is sending files goes before whoever looks into them."""
_OPEN_FILES: Final = 256
_PR_SET_PDEATHSIG: Final = 1
_SPARE_CPU_SECONDS: Final = 2


def confine(memory_bytes: int, *, parent: int) -> None:
    """Limit this process for good; it dies with its parent, even where it hangs. Raises OSError."""
    os.nice(_NICENESS)
    for limit, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, memory_bytes),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (allowed, allowed))
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it could be watched
        os.kill(os.getpid(), signal.SIGKILL)


def limit_cpu(seconds: float) -> None:
    """Let the system end this process (SIGXCPU) when it has computed for so long from now on, and a little longer.

    It is the parent who keeps time; this is for when the parent cannot.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = math.ceil(used.ru_utime + used.ru_stime + seconds) + _SPARE_CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def take_channel() -> tuple[BinaryIO, BinaryIO]:
    """Return stdin and stdout for ourselves alone, as they were.

    Whoever prints from now on, in Python or in C, prints to stderr; whoever reads from stdin reads nothing.
    """
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers
