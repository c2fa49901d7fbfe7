"""A file as it arrives: assembled from pieces, hashed on the way, small ones in memory and big ones in the store."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from app.domain.errors import BoatloadError, FileTooLargeError
from app.domain.ids import Ids
from app.domain.limits import STEP_BYTES, Limits
from app.domain.upload import Refusal
from app.storage.base import ObjectWriter, Store
from app.storage.forgetful import ForgetfulStore

_MOST_PIECES: Final = 64
"""A body in crumbs must not cost many times its size in memory."""


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
    ref: str | None = None
    """The client's own name for it; where the batch has an upload of that ref, that one is filled or compared."""
    fills: UUID | None = None
    """The upload of the batch that it fills, or is compared with."""
    duplicate: bool = False
    """Set once it is kept: the owner's bytes were there already, and the upload refers to those."""
    already: bool = False
    """Set once it is kept: so was the upload, and nothing was changed."""

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
    object of its own, a step at a time. `hashers` hash a step while it is being written.
    """

    def __init__(
        self,
        index: int,
        filename: str,
        content_type: str | None,
        *,
        store: Store | ForgetfulStore,
        limits: Limits,
        new_id: Ids,
        hashers: Executor,
    ) -> None:
        self._arrival: Final = Arrival(index, filename, content_type)
        self._store: Final = store
        self._limits: Final = limits
        self._new_id: Final = new_id
        self._hashers: Final = hashers
        self._hash: hashlib._Hash | None = None
        self.memory_bytes = 0
        """Bytes held in memory."""

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
            return
        arrival.pieces.append(data)
        self.memory_bytes += len(data)
        most = STEP_BYTES if arrival.writer else self._limits.pack_file_bytes
        if self.memory_bytes > most:
            self.spill()
        elif len(arrival.pieces) > _MOST_PIECES:
            arrival.pieces = [b"".join(arrival.pieces)]

    @property
    def in_memory(self) -> bool:
        """Whether nothing of it is in the store."""
        return self._arrival.writer is None

    @property
    def refused(self) -> bool:
        """Whether it was refused, so that more of it is of no use."""
        return self._arrival.refusal is not None

    def refuse(self, error: BoatloadError) -> None:
        """Turn it into a refusal; what was written is removed."""
        arrival = self._arrival
        arrival.abandon()
        arrival.writer = None
        arrival.size_bytes = self.memory_bytes = 0
        arrival.refusal = Refusal.of(error)

    def spill(self) -> None:
        """Move what is in memory to an object of its own. Raises as `add` does."""
        arrival = self._arrival
        if arrival.writer is None or self._hash is None:
            self._hash = hashlib.sha256()
            arrival.writer = self._store.create(self._new_id(), big=True)
        pieces, arrival.pieces = arrival.pieces, []
        self.memory_bytes = 0
        hashing = self._hashers.submit(_update, self._hash, pieces)
        try:
            arrival.writer.write(pieces)
        finally:
            hashing.result()

    def finish(self) -> Arrival:
        """Return the whole file: its digest known, and its object synced if it has one. Raises as `add` does."""
        arrival = self._arrival
        if arrival.refusal:
            return arrival
        if arrival.writer or not self._limits.pack_file_bytes:
            self.spill()
            assert arrival.writer is not None
            arrival.writer.sync()
        arrival.sha256 = self._hash.digest() if self._hash else hashlib.sha256(b"".join(arrival.pieces)).digest()
        return arrival

    def abandon(self) -> None:
        """Give up: the file was never whole. Never raises."""
        self._arrival.abandon()


def _update(digest: "hashlib._Hash", pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        digest.update(piece)
