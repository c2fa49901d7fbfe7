"""What every store does. All methods block: call them off the event loop.

The behaviour suite in `tests/conformance` is what an implementation must pass.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol
from uuid import UUID

BLOCK_BYTES: Final = 4096
"""A writer that is synced at multiples of this writes whole blocks only, which is what a disk does best."""


class ObjectWriter(Protocol):
    """One object, being written. Owned by whoever created it, who closes it; used by one thread at a time.

    Until it is closed the store keeps it from being removed as abandoned, so a writer stays open until the row that
    refers to its bytes is committed. After any error it is broken: every further `write` and `sync` raises.
    """

    @property
    def object_id(self) -> UUID:
        """The id it was created under."""

    @property
    def size_bytes(self) -> int:
        """Bytes in it so far."""

    def write(self, buffers: Sequence[bytes]) -> None:
        """Append all of `buffers`, in order.

        Raises StorageFullError or StorageUnavailableError; then what was appended is undefined.
        """

    def sync(self) -> None:
        """Return once all that was written, and its name, is on stable storage.

        A failed sync is never tried again: the pages may be gone (raises as `write` does).
        """

    def close(self) -> None:
        """Let go of it. Idempotent, never raises. Bytes that no row refers to are left to the sweeper."""

    def discard(self) -> None:
        """Close and remove it. Only for an object that no row refers to. Never raises."""


class ObjectReader(Protocol):
    """One object, being read. Owned by whoever opened it, who closes it; may be used by many threads."""

    def read(self, offset: int, size: int) -> bytes:
        """Return exactly `size` bytes from `offset` on.

        Raises StorageUnavailableError where the object does not hold them.
        """

    def close(self) -> None:
        """Let go of it. Idempotent."""


class Store(Protocol):
    """A place for objects."""

    def create(self, object_id: UUID, *, big: bool = False) -> ObjectWriter:
        """Begin a new object; `object_id` was never used before. `big` promises megabytes or whole blocks to each sync.

        Raises StorageFullError or StorageUnavailableError.
        """

    def reopen(self, object_id: UUID, *, at: int) -> ObjectWriter | None:
        """Go on with an object behind its first `at` bytes, which were synced; None where another writer holds it.

        Whatever lies behind them is cut off by the first `write` or `sync`, and not before: whoever holds it may still
        find that others have written more of it. The writer's `size_bytes` begins at `at`, and it promises what
        `create` with `big` does. Raises StorageUnavailableError where the object is gone or does not hold that many.
        """

    def open(self, object_id: UUID) -> ObjectReader:
        """Open an object. Raises StorageUnavailableError where there is none."""

    def list(self) -> Iterator[UUID]:
        """Yield the ids of all objects, in any order; one that comes or goes meanwhile may be missed."""

    def claim_abandoned(self, object_id: UUID) -> "Claim | None":
        """Claim an object, there or gone, so that no writer holds it; None where one does."""


class Claim(Protocol):
    """The right to remove one object. Owned by whoever claimed it, who releases it."""

    def remove(self) -> None:
        """Remove the object, durably in time. Idempotent. Raises StorageUnavailableError."""

    def release(self) -> None:
        """Give the right back. Idempotent."""
