"""Packs: many small files in one object, written and synced together.

Making a file is what a disk is slow at, and a PUT is what a bucket charges for; so small files are appended to the
process's open pack, and one sync makes a whole group of them durable. Each group begins on a block of its own, so that
none is written twice.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

from app.domain.errors import StorageFullError, StorageUnavailableError
from app.domain.ids import Ids
from app.storage.base import BLOCK_BYTES, ObjectWriter, Store


class PackWriter:
    """Appends groups of files to the open pack. One per process; one thread at a time.

    A pack is left behind, and a new one begun with the next group, once it holds `pack_bytes`, once nothing came for
    `idle_seconds` (see `roll_if_idle`), and after any failure: what lies behind the last sync is then dead bytes, which
    no row refers to. Until it is left behind, the sweeper keeps away from it.
    """

    def __init__(
        self,
        store: Store,
        *,
        pack_bytes: int,
        new_id: Ids,
        idle_seconds: float = 60,
        block_bytes: int = BLOCK_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store: Final = store
        self._pack_bytes: Final = pack_bytes
        self._new_id: Final = new_id
        self._idle_seconds: Final = idle_seconds
        self._block_bytes: Final = block_bytes
        self._monotonic: Final = monotonic
        self._open: ObjectWriter | None = None
        self._broken: list[ObjectWriter] = []
        self._next_id: UUID | None = None
        self._last_append = 0.0

    def append(self, files: Sequence[Sequence[bytes]]) -> tuple[UUID, list[int]]:
        """Write the files one behind the other, each given as its pieces; all are durable on return.

        Returns the pack and each file's offset in it. Raises StorageFullError or StorageUnavailableError; then none of
        them is in the store as far as anybody may know.
        """
        pack_id, offset = self.end
        self._next_id = None  # of a file that could not be begun the name may be there
        pack = self._open or self._store.create(pack_id, big=True)
        self._open = None
        offsets = []
        for pieces in files:
            offsets.append(offset)
            offset += sum(map(len, pieces))
        padding = bytes(-offset % self._block_bytes)
        try:
            pack.write([*(piece for pieces in files for piece in pieces), padding])
            pack.sync()
        except (StorageFullError, StorageUnavailableError):
            self._broken.append(pack)  # groups before this one may lie in it whose rows are not committed yet
            raise
        self._open = pack
        self._last_append = self._monotonic()
        return pack_id, offsets

    @property
    def end(self) -> tuple[UUID, int]:
        """Where the next group will begin: the pack, which may not be there yet, and the offset in it."""
        if self._open:
            return self._open.object_id, self._open.size_bytes
        self._next_id = self._next_id or self._new_id()
        return self._next_id, 0

    @property
    def size_bytes(self) -> int:
        """Bytes in the open pack, padding included; 0 where none is open."""
        return self._open.size_bytes if self._open else 0

    @property
    def is_full(self) -> bool:
        """Whether a pack is to be left behind: the open one, or one that failed."""
        return bool(self._broken) or (self._open is not None and self._open.size_bytes >= self._pack_bytes)

    def roll_if_full(self) -> None:
        """Leave the pack behind if it is full. To be called when the rows of all groups before are committed."""
        if self.is_full:
            self.close()

    def roll_if_idle(self) -> None:
        """Leave the pack behind if nothing came for a while, so that the sweeper may have it."""
        if self._monotonic() - self._last_append >= self._idle_seconds:
            self.close()

    def close(self) -> None:
        """Leave the open pack behind. Idempotent; another `append` begins a new one."""
        for pack in [*self._broken, *([self._open] if self._open else [])]:
            pack.close()
        self._broken, self._open = [], None
