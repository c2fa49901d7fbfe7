"""Where a follower stands: how much of a batch's changes it has seen. As text, the id of an event."""

import re
from typing import Final, NamedTuple
from uuid import UUID

from app.domain.errors import InvalidEventIdError

_LAST_ID: Final = UUID(int=2**128 - 1)
_MOST: Final = 2**63 - 1
_FORM: Final = re.compile(
    r"([0-9]{1,19})(?::([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}))?", re.ASCII
)


class Position(NamedTuple):
    """A place in the order of (version, upload id): all changes up to it have been seen.

    Without an upload it lies behind all of its version: the state at that version is known whole.
    """

    version: int
    upload_id: UUID = _LAST_ID

    def __str__(self) -> str:
        """Return the event id: `<version>` where it is known whole, else `<version>:<upload id>`."""
        return f"{self.version}" if self.upload_id == _LAST_ID else f"{self.version}:{self.upload_id}"


def parse_position(text: str) -> Position:
    """Read an event id. Raises InvalidEventIdError for what none of our events has."""
    match = _FORM.fullmatch(text)
    if not match or int(match[1]) > _MOST:
        raise InvalidEventIdError
    return Position(int(match[1]), UUID(match[2])) if match[2] else Position(int(match[1]))
