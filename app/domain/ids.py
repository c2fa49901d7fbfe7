"""Where ids and times come from: passed in, so that a test can choose them."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import uuid6

Ids = Callable[[], UUID]
Clock = Callable[[], datetime]

LOCAL_OWNER: Final = UUID("00000000-0000-8000-8000-000000000001")
"""The owner of everything where no credentials are configured."""


def new_id() -> UUID:
    """Return a UUIDv7 (RFC 9562 §5.7): ids of one process sort by the time they were made."""
    return uuid6.uuid7()


def utc_now() -> datetime:
    """Return the time, with its zone."""
    return datetime.now(UTC)


def made_at(identity: UUID) -> datetime:
    """Return when a UUIDv7 was made, to the millisecond."""
    return datetime.fromtimestamp((identity.int >> 80) / 1000, UTC)
