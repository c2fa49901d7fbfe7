"""`Prefer: wait=N` (RFC 7240 §4.3): how long a client would wait for something new."""

import re
from collections.abc import Iterable
from typing import Final

MOST_SECONDS: Final = 60

_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_PARAMETERS: Final = rf"(?:\s*;(?:\s*{_WORD}(?:\s*=\s*(?:{_WORD}|{_QUOTED}))?)?)*"
_PREFERENCE: Final = re.compile(rf"\s*({_WORD})(?:\s*=\s*({_WORD}|{_QUOTED}))?{_PARAMETERS}\s*(?:,|$)", re.ASCII)
"""No blank could be taken by two parts of it: to try all ways to share out a few would take for ever."""
_SECONDS: Final = re.compile(r'"?([0-9]{1,9})"?', re.ASCII)


def wait_seconds(fields: Iterable[str]) -> int | None:
    """Return the seconds of the first `wait` in the `Prefer` fields, 60 at the most; None where there is no valid one.

    A field that is malformed is ignored from there on, as the RFC has it (§2).
    """
    for field in fields:
        place = 0
        while place < len(field) and (match := _PREFERENCE.match(field, place)):
            if match[1].lower() == "wait":
                seconds = _SECONDS.fullmatch(match[2] or "")
                return min(int(seconds[1]), MOST_SECONDS) if seconds else None
            place = match.end()
    return None
