"""Checksums over one piece of an upload."""

import hashlib
import hmac
import zlib
from typing import Final

from app.domain.errors import ChecksumMismatchError


class Checksum:
    """One that `hashlib` knows by name, or crc32 (ISO 3309, big end first). Used by one thread at a time."""

    def __init__(self, algorithm: str, expected: bytes) -> None:
        self._expected: Final = expected
        self._hash: Final = None if algorithm == "crc32" else hashlib.new(algorithm, usedforsecurity=False)
        self._crc = 0

    def update(self, data: bytes, /) -> None:
        """Take the next bytes of the piece."""
        if self._hash is None:
            self._crc = zlib.crc32(data, self._crc)
        else:
            self._hash.update(data)

    def verify(self) -> None:
        """Return if they were the right ones. Raises ChecksumMismatchError."""
        found = self._crc.to_bytes(4) if self._hash is None else self._hash.digest()
        if not hmac.compare_digest(found, self._expected):
            raise ChecksumMismatchError
