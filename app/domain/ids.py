"""Where ids and times come from: passed in, so that a test can choose them."""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from threading import Lock
from typing import Final
from uuid import UUID

Ids = Callable[[], UUID]
Clock = Callable[[], datetime]

LOCAL_OWNER: Final = UUID("00000000-0000-8000-8000-000000000001")
"""The owner of everything where no credentials are configured."""

_VERSION_AND_VARIANT: Final = 0x7 << 76 | 0b10 << 62
_POOL_BYTES: Final = 4096
_END_OF_TIME: Final = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


class UuidSeven:
    """Makes UUIDv7 (RFC 9562 §5.7), each greater than the one before; any number of threads may call it.

    The 12 bits behind the millisecond are its fraction (§6.2, method 3), so ids made at any speed keep to the clock:
    uuid6.uuid7 adds a millisecond for each id of the same one, which at 10,000 files a second is nine seconds a second.
    """

    def __init__(self, time_ns: Callable[[], int] = time.time_ns) -> None:
        self._time_ns: Final = time_ns
        self._lock: Final = Lock()
        self._last = 0
        self._random = b""

    def __call__(self) -> UUID:
        """Return the next id."""
        milliseconds, rest = divmod(self._time_ns(), 1_000_000)
        with self._lock:
            self._last = stamp = max(milliseconds << 12 | rest * 4096 // 1_000_000, self._last + 1)
            if not self._random:
                self._random = os.urandom(_POOL_BYTES)
            noise, self._random = self._random[:8], self._random[8:]
        moment, fraction = stamp >> 12, stamp & 0xFFF
        tail = int.from_bytes(noise) & 0x3FFF_FFFF_FFFF_FFFF
        return UUID(int=moment << 80 | fraction << 64 | _VERSION_AND_VARIANT | tail)


new_id: Final = UuidSeven()


def utc_now() -> datetime:
    """Return the time, with its zone."""
    return datetime.now(UTC)


def made_at(identity: UUID) -> datetime:
    """Return when a UUIDv7 was made, to the millisecond; for what only looks like one, some time up to year 9999."""
    return datetime.fromtimestamp(min((identity.int >> 80) / 1000, _END_OF_TIME), UTC)
