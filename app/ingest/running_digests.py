"""The SHA-256 of uploads in progress, kept in memory between their pieces; read again where it is lost."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Executor
from typing import Final
from uuid import UUID

from app.domain.limits import STEP_BYTES
from app.storage.base import ObjectReader, Store

_MOST: Final = 10_000
"""A state takes some 300 bytes."""


class RunningDigest:
    """The digest of an upload's first `position` bytes. Used by one thread at a time."""

    def __init__(self) -> None:
        self.position = 0
        self._hash = hashlib.sha256()

    def update(self, pieces: Iterable[bytes]) -> None:
        """Take the bytes behind `position`."""
        for piece in pieces:
            self._hash.update(piece)
            self.position += len(piece)

    def copy(self) -> "RunningDigest":
        """Return one that goes on for itself."""
        other = RunningDigest()
        other.position = self.position
        other._hash = self._hash.copy()
        return other

    def digest(self) -> bytes:
        """Return the 32 bytes."""
        return self._hash.digest()

    def follow(self, reader: ObjectReader, upto: int) -> None:
        """Take at most a step of what is stored behind `position`. Blocks. Raises StorageUnavailableError."""
        size = min(STEP_BYTES, upto - self.position)
        self.update([reader.read(self.position, size)])


class RunningDigests:
    """The digests of this process, by the object that holds the bytes. Those longest unused are forgotten."""

    def __init__(self, store: Store, threads: Executor) -> None:
        self._store: Final = store
        self._threads: Final = threads
        self._kept: Final[OrderedDict[UUID, RunningDigest]] = OrderedDict()

    def take(self, object_id: UUID | None, offset: int) -> RunningDigest:
        """Return a digest of at most the first `offset` bytes of the object; it is the caller's until `keep`."""
        kept = self._kept.pop(object_id, None) if object_id else None
        return kept if kept and kept.position <= offset else RunningDigest()

    def keep(self, object_id: UUID, digest: RunningDigest) -> None:
        """Have it for the next piece."""
        self._kept[object_id] = digest
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)

    async def catch_up(self, digest: RunningDigest, object_id: UUID, upto: int) -> None:
        """Read what is stored of the object from where `digest` is up to `upto`.

        Where it is cancelled the digest is good for as far as it came. Raises StorageUnavailableError.
        """
        if digest.position >= upto:
            return
        loop = asyncio.get_running_loop()
        reader = await asyncio.to_thread(self._store.open, object_id)
        try:
            while digest.position < upto:
                reading = loop.run_in_executor(self._threads, digest.follow, reader, upto)
                try:
                    await asyncio.shield(reading)
                except asyncio.CancelledError:
                    await asyncio.wait([reading])
                    raise
        finally:
            reader.close()
