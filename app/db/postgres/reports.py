"""What PostgreSQL says about itself, read: its pid file, and the reasons it gives. Pure."""

import re
from typing import Final, NamedTuple

_STATUS_LINE: Final = 7

_REASON: Final = re.compile(r"\b(?:FATAL|PANIC|initdb: error):\s+(?!\s|the database system is )(.+)")
"""Why a program gave up. What a server told clients who came too early is not it."""


class PidFile(NamedTuple):
    """What `postmaster.pid` says: the process (negative for a single-user one), and `ready` once it takes sessions."""

    pid: int
    status: str


def parse_pid_file(text: str) -> PidFile | None:
    """Read PostgreSQL's `postmaster.pid`, which may be half written; None when it names no process."""
    lines = text.splitlines()
    try:
        pid = int(lines[0])
    except (IndexError, ValueError):
        return None
    return PidFile(pid, lines[_STATUS_LINE].strip() if len(lines) > _STATUS_LINE else "")


def last_reason(text: str) -> str | None:
    """Return the last reason that `text`, a log or the output of a program, gives for not going on."""
    reasons = _REASON.findall(text)
    return reasons[-1].strip() if reasons else None
