"""Any store, with faults on order: what a full disk or a lost bucket looks like to its users."""

from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

from app.domain.errors import StorageFullError, StorageUnavailableError
from app.storage.base import Claim, ObjectReader, ObjectWriter, Store

Fault = StorageFullError | StorageUnavailableError


class BreakingStore:
    """Passes everything on to `inner`, but for the calls named in `faults`, which raise what is there.

    A writer that failed stays broken, as the contract has it.
    """

    def __init__(self, inner: Store) -> None:
        self.inner: Final = inner
        self.faults: Final[dict[str, Fault]] = {}
        self.writers: Final[list[BreakingWriter]] = []

    def check(self, call: str) -> None:
        if fault := self.faults.get(call):
            raise fault

    def create(self, object_id: UUID, *, big: bool = False) -> "BreakingWriter":
        self.check("create")
        self.writers.append(BreakingWriter(self, self.inner.create(object_id, big=big)))
        return self.writers[-1]

    def reopen(self, object_id: UUID, *, at: int) -> "BreakingWriter | None":
        self.check("reopen")
        inner = self.inner.reopen(object_id, at=at)
        if inner is None:
            return None
        self.writers.append(BreakingWriter(self, inner))
        return self.writers[-1]

    def open(self, object_id: UUID) -> ObjectReader:
        self.check("open")
        return self.inner.open(object_id)

    def list(self) -> Iterator[UUID]:
        self.check("list")
        return self.inner.list()

    def claim_abandoned(self, object_id: UUID) -> Claim | None:
        self.check("claim")
        return self.inner.claim_abandoned(object_id)


class BreakingWriter:
    """A writer of such a store, which also says what became of it."""

    def __init__(self, store: BreakingStore, inner: ObjectWriter) -> None:
        self.store: Final = store
        self.inner: Final = inner
        self.broken = False
        self.closed = False
        self.synced_bytes = 0

    @property
    def object_id(self) -> UUID:
        return self.inner.object_id

    @property
    def size_bytes(self) -> int:
        return self.inner.size_bytes

    def write(self, buffers: Sequence[bytes]) -> None:
        self.check("write")
        self.inner.write(buffers)

    def sync(self) -> None:
        self.check("sync")
        self.inner.sync()
        self.synced_bytes = self.inner.size_bytes

    def close(self) -> None:
        self.closed = True
        self.inner.close()

    def discard(self) -> None:
        self.closed = True
        self.inner.discard()

    def check(self, call: str) -> None:
        if self.broken:
            raise StorageUnavailableError
        self.broken = True
        self.store.check(call)
        self.broken = False
