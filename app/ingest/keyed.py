"""Multipart requests with a key: which of their parts are kept already, and what is noted of those that come.

What is kept of such a request is always its first parts, without a gap. So one number says how far it went, and the
transaction that keeps more of it names the number that it goes on from.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from app.domain.batch import Batch
from app.domain.errors import IdempotencyKeyReusedError
from app.domain.idempotency import RequestKey
from app.domain.upload import Upload
from app.ingest.arrival import Arrival
from app.repositories.idempotency_runs import Progress, Run
from app.repositories.unit_of_work import UnitOfWork

FINGERPRINT_BYTES: Final = 32


class RivalsError(Exception):
    """Another process has taken these requests further, each named by the id of its key."""

    def __init__(self, ids: set[UUID]) -> None:
        super().__init__(ids)
        self.ids: Final = ids


@dataclass(slots=True)
class KeyedRequest:
    """One request, and what was kept of those before it that had the same key."""

    id: UUID
    key: RequestKey
    expires_at: datetime
    write_batch: Callable[[Batch], bytes]
    """Writes down a batch as it is answered."""
    batch_id: UUID | None = None
    """Where its files go; None while nothing is kept."""
    opened: bool = False
    """Whether the batch was opened for the request."""
    fingerprints: bytes = b""
    """Of the parts that were kept before."""
    ended: bytes | None = None
    """The batch as the request was answered that came to its end."""

    @property
    def parts(self) -> int:
        """How many parts were kept before."""
        return len(self.fingerprints) // FINGERPRINT_BYTES

    def has(self, arrival: Arrival, batch_field: str) -> bool:
        """Say whether a part was kept before. Raises IdempotencyKeyReusedError for one that no such request has."""
        if arrival.index >= self.parts:
            if self.ended is not None:
                raise IdempotencyKeyReusedError
            return False
        start = arrival.index * FINGERPRINT_BYTES
        if self.fingerprints[start : start + FINGERPRINT_BYTES] != fingerprint(arrival, batch_field):
            raise IdempotencyKeyReusedError
        return True

    def check_end(self, parts: int) -> None:
        """Return if a request may end behind so many parts. Raises IdempotencyKeyReusedError."""
        if parts < self.parts:
            raise IdempotencyKeyReusedError


@dataclass(slots=True)
class Stretch:
    """What one submission keeps of a request."""

    request: KeyedRequest
    first: int
    """How many parts are kept before it."""
    batch_field: str
    opened: bool
    ends: bool
    """Whether nothing follows it."""
    fingerprints: list[bytes] = field(default_factory=list)
    taken: int = 0
    results: bytes = b""

    def draft(self, arrivals: Sequence[Arrival], uploads: Sequence[Upload], results: bytes) -> None:
        """Take in what is to be noted of the parts."""
        self.fingerprints = [fingerprint(arrival, self.batch_field) for arrival in arrivals]
        self.taken = sum(upload.error is None for upload in uploads)
        self.results = results


def fingerprint(arrival: Arrival, batch_field: str) -> bytes:
    """Return 32 bytes that tell a part from others: its name, its type, its bytes or why they were not taken.

    That its owner has no room for it does not tell it from others.
    """
    told = arrival.sha256.hex() if arrival.sha256 or not arrival.refusal else arrival.refusal.code
    parts = (batch_field, arrival.filename, arrival.content_type or "", str(arrival.size_bytes), told)
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).digest()


async def record(uow: UnitOfWork, stretches: Iterable[tuple[Stretch, Batch]]) -> None:
    """Note what this transaction keeps of requests, beside their batches as it leaves them.

    Stretches of one request are in its order. Raises RivalsError where that cannot be so any more.
    """
    progress: dict[UUID, Progress] = {}
    runs: list[Run] = []
    for stretch, batch in stretches:
        request, known = stretch.request, len(stretch.fingerprints)
        earlier = progress.get(request.id)
        progress[request.id] = Progress(
            id=request.id,
            key=request.key,
            batch_id=batch.id,
            opened=stretch.opened,
            first=earlier.first if earlier else stretch.first,
            parts=stretch.first + known,
            begins=earlier.begins if earlier else not stretch.first,
            body=request.write_batch(batch) if stretch.ends else None,
            expires_at=request.expires_at,
        )
        if known:
            runs.append(Run(request.id, stretch.first, b"".join(stretch.fingerprints), stretch.taken, stretch.results))
    if lost := progress.keys() - await uow.idempotency_runs.advance(list(progress.values())):
        raise RivalsError(lost)
    await uow.idempotency_runs.insert(runs)
