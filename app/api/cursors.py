"""Cursors: where a page ended, signed, so that only those that this service gave out for the same list are taken."""

import base64
import binascii
import hmac
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from app.domain.errors import InvalidCursorError

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_SIGNATURE_BYTES: Final = 16
_POSITION_BYTES: Final = 24

BEFORE_ALL: Final = (datetime(9999, 12, 31, tzinfo=UTC), UUID(int=2**128 - 1))
AFTER_NONE: Final = (_EPOCH, UUID(int=0))


class Cursors:
    """Makes and reads the cursors of one service. `scope` names the list: whose, which, and how filtered."""

    def __init__(self, key: bytes) -> None:
        self._key: Final = key

    def make(self, scope: str, moment: datetime, identity: UUID) -> str:
        """Return the cursor for the place behind a row."""
        return self.make_version(scope, (moment - _EPOCH) // _MICROSECOND, identity)

    def read(self, scope: str, cursor: str) -> tuple[datetime, UUID]:
        """Return the place. Raises InvalidCursorError for one that was not made here for `scope`."""
        microseconds, identity = self.read_version(scope, cursor)
        return _EPOCH + _MICROSECOND * microseconds, identity

    def make_version(self, scope: str, version: int, identity: UUID) -> str:
        """Return the cursor for the place behind a row of a list that is ordered by (version, id)."""
        position = version.to_bytes(8) + identity.bytes
        return base64.urlsafe_b64encode(position + self._sign(scope, position)).rstrip(b"=").decode()

    def read_version(self, scope: str, cursor: str) -> tuple[int, UUID]:
        """Return that place. Raises InvalidCursorError as `read` does; a scope has cursors of one kind."""
        try:
            data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise InvalidCursorError from None
        position, signature = data[:_POSITION_BYTES], data[_POSITION_BYTES:]
        if not hmac.compare_digest(signature, self._sign(scope, position)):
            raise InvalidCursorError
        return int.from_bytes(position[:8]), UUID(bytes=position[8:])

    def _sign(self, scope: str, position: bytes) -> bytes:
        return hmac.digest(self._key, scope.encode() + b"\0" + position, "sha256")[:_SIGNATURE_BYTES]
