"""A file as it arrives: assembled from pieces, hashed on the way, small ones in memory and big ones in the store."""

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from app.domain.errors import BoatloadError, FileTooLargeError
from app.domain.ids import Ids
from app.domain.limits import Limits
from app.domain.upload import Refusal
from app.storage.base import ObjectWriter, Store

if TYPE_CHECKING:
    from hashlib import _Hash


@dataclass(slots=True)
class Arrival:
    """One file that is whole, or refused; on its way to a row."""

    index: int
    """Its place among the file parts of the request."""
    filename: str
    content_type: str | None
    refusal: Refusal | None = None
    """Set: there are no bytes, and the row will say why."""
    size_bytes: int = 0
    sha256: bytes = b""
    pieces: list[bytes] = field(default_factory=list)
    """The bytes of a small file, still in memory."""
    writer: ObjectWriter | None = None
    """The object of a big file, synced; owned by whoever has the arrival, to be closed once its row is committed."""

    @property
    def memory_bytes(self) -> int:
        """How much of the budget it holds."""
        return self.size_bytes if self.pieces else 0

    def abandon(self) -> None:
        """Give up the bytes: no row will refer to them. Blocks."""
        self.pieces = []
        if self.writer:
            self.writer.discard()


class Assembly:
    """The file being received. All methods block; they run in the thread that parses the body, one at a time.

    Up to `pack_file_bytes` it is kept in memory; from there on, or when memory is short (`spill`), it is written to an
    object of its own.
    """

    def __init__(
        self, index: int, filename: str, content_type: str | None, *, store: Store, limits: Limits, new_id: Ids
    ) -> None:
        self._arrival: Final = Arrival(index, filename, content_type)
        self._store: Final = store
        self._limits: Final = limits
        self._new_id: Final = new_id
        self._hash: _Hash | None = None

    @property
    def memory_bytes(self) -> int:
        """Bytes held in memory."""
        return self._arrival.memory_bytes

    def add(self, data: bytes) -> None:
        """Append; past `max_file_bytes` the file is refused, and all that follows is passed over.

        Raises StorageFullError or StorageUnavailableError; then the assembly must be abandoned.
        """
        arrival = self._arrival
        if arrival.refusal:
            return
        arrival.size_bytes += len(data)
        if arrival.size_bytes > self._limits.max_file_bytes:
            limit = self._limits.max_file_bytes
            self.refuse(FileTooLargeError(f"The file is over {limit} bytes.", max_file_bytes=limit))
        elif arrival.writer and self._hash:
            arrival.writer.write([data])
            self._hash.update(data)
        else:
            arrival.pieces.append(data)
            if arrival.size_bytes > self._limits.pack_file_bytes:
                self.spill()

    def refuse(self, error: BoatloadError) -> None:
        """Turn it into a refusal; what was written is removed."""
        self._arrival.abandon()
        self._arrival.writer = None
        self._arrival.size_bytes = 0
        self._arrival.refusal = Refusal.of(error)

    def spill(self) -> None:
        """Move what is in memory to an object of its own. Raises as `add` does."""
        arrival = self._arrival
        arrival.writer = self._store.create(self._new_id())
        pieces, arrival.pieces = arrival.pieces, []
        arrival.writer.write(pieces)
        self._hash = hashlib.sha256()
        for piece in pieces:
            self._hash.update(piece)

    def finish(self) -> Arrival:
        """Return the whole file: its digest known, and its object synced if it has one. Raises as `add` does."""
        arrival = self._arrival
        if arrival.refusal:
            return arrival
        if not arrival.writer and not self._limits.pack_file_bytes:
            self.spill()
        if arrival.writer and self._hash:
            arrival.writer.sync()
            arrival.sha256 = self._hash.digest()
        else:
            pieces = arrival.pieces
            arrival.sha256 = hashlib.sha256(pieces[0] if len(pieces) == 1 else b"".join(pieces)).digest()
        return arrival

    def abandon(self) -> None:
        """Give up: the file was never whole. Never raises."""
        self._arrival.abandon()
