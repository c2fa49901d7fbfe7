"""An upload's bytes as a file: readable, seekable, wherever the object lies and whatever else is in it."""

import io
import os
from typing import Final

from app.domain.errors import StorageUnavailableError
from app.storage.base import ObjectReader

BUFFER_BYTES: Final = 64 * 1024


class StoredFile(io.RawIOBase):
    """A run of an object, as a raw file without path or descriptor. The reader stays its owner's.

    Reading raises StorageUnavailableError where the bytes are out of reach, and `lost` says so from then on, whatever
    became of the error on its way.
    """

    def __init__(self, reader: ObjectReader, offset: int, size: int) -> None:
        self._reader: Final = reader
        self._offset: Final = offset
        self._size: Final = size
        self._position = 0
        self.lost = False

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place, which may lie behind the end. Raises ValueError for one before the beginning."""
        position = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence] + offset
        if position < 0:
            raise ValueError(f"negative position {position}")
        self._position = position
        return position

    def tell(self) -> int:
        """Return the place."""
        return self._position

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]  # typeshed: any buffer
        """Fill the buffer as far as there are bytes."""
        wanted = max(0, min(len(buffer), self._size - self._position))
        if not wanted:
            return 0
        try:
            data = self._reader.read(self._offset + self._position, wanted)
        except StorageUnavailableError:
            self.lost = True
            raise
        buffer[:wanted] = data
        self._position += wanted
        return wanted
