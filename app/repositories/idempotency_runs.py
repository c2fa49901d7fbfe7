"""`idempotency_runs`: the file parts of multipart requests with a key, as they were kept: a run of them a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, LiteralString
from uuid import UUID

from app.domain.idempotency import RequestKey

if TYPE_CHECKING:
    from app.db.pool import Connection

BEGIN: Final[LiteralString] = """
    INSERT INTO idempotency_keys (id, user_id, key, fingerprint, batch_id, opened, parts, body, expires_at)
    SELECT v.id, v.user_id, v.key, v.fingerprint, v.batch_id, v.opened, v.parts, v.body, v.expires_at
    FROM unnest(
        $1::uuid[], $2::uuid[], $3::text[], $4::bytea[], $5::uuid[], $6::boolean[], $7::int[], $8::bytea[],
        $9::timestamptz[]
    ) AS v (id, user_id, key, fingerprint, batch_id, opened, parts, body, expires_at)
    ON CONFLICT (user_id, key) DO NOTHING
    RETURNING id
"""

GO_ON: Final[LiteralString] = """
    UPDATE idempotency_keys k SET parts = v.parts, body = v.body, expires_at = v.expires_at
    FROM unnest($1::uuid[], $2::int[], $3::int[], $4::bytea[], $5::timestamptz[])
        AS v (id, first, parts, body, expires_at)
    WHERE k.id = v.id AND v.id IS NOT DISTINCT FROM v.id AND k.parts = v.first AND k.body IS NULL
    RETURNING k.id
"""

INSERT: Final[LiteralString] = """
    INSERT INTO idempotency_runs (key_id, first, taken, fingerprints, results)
    SELECT v.key_id, v.first, v.taken, v.fingerprints, v.results
    FROM unnest($1::uuid[], $2::int[], $3::int[], $4::bytea[], $5::bytea[])
        AS v (key_id, first, taken, fingerprints, results)
"""

FINGERPRINTS: Final[LiteralString] = """
    SELECT fingerprints FROM idempotency_runs WHERE key_id = $1 ORDER BY first
"""

RESULTS: Final[LiteralString] = """
    SELECT taken, results FROM idempotency_runs WHERE key_id = $1 AND first < $2 ORDER BY first
"""


@dataclass(frozen=True, slots=True)
class Run:
    """File parts that follow each other, as one transaction keeps them."""

    key_id: UUID
    first: int
    """Where they begin among the file parts of their request."""
    fingerprints: bytes
    """32 bytes for each of them."""
    taken: int
    """How many of them were not rejected."""
    results: bytes
    """What is answered of them: JSON objects, with commas in between."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a transaction takes a request."""

    id: UUID
    key: RequestKey
    batch_id: UUID
    opened: bool
    first: int
    """How many parts are kept before it, which must be so; 0 with `begins`."""
    parts: int
    """How many are kept after it."""
    begins: bool
    """Whether nothing is known of the key yet."""
    body: bytes | None
    """The batch as it is answered, where the request ends with it."""
    expires_at: datetime


class IdempotencyRuns:
    """The runs and the keys that they belong to, bound to one connection."""

    def __init__(self, connection: "Connection") -> None:
        self._connection: Final = connection

    async def advance(self, requests: Sequence[Progress]) -> set[UUID]:
        """Write how far requests have come, each once; return the ids of those that stand where they should.

        One that is missing was taken further by somebody else, or has gone. Keys are locked in their order.
        """
        ordered = sorted(requests, key=lambda one: one.key)
        reached: set[UUID] = set()
        if new := [one for one in ordered if one.begins]:
            rows = await self._connection.fetch(
                BEGIN,
                [one.id for one in new],
                [one.key.owner for one in new],
                [one.key.key for one in new],
                [one.key.fingerprint for one in new],
                [one.batch_id for one in new],
                [one.opened for one in new],
                [one.parts for one in new],
                [one.body for one in new],
                [one.expires_at for one in new],
            )
            reached |= {row["id"] for row in rows}
        if known := [one for one in ordered if not one.begins]:
            rows = await self._connection.fetch(
                GO_ON,
                [one.id for one in known],
                [one.first for one in known],
                [one.parts for one in known],
                [one.body for one in known],
                [one.expires_at for one in known],
            )
            reached |= {row["id"] for row in rows}
        return reached

    async def insert(self, runs: Sequence[Run]) -> None:
        """Insert runs of keys that this transaction has written."""
        await self._connection.execute(
            INSERT,
            [run.key_id for run in runs],
            [run.first for run in runs],
            [run.taken for run in runs],
            [run.fingerprints for run in runs],
            [run.results for run in runs],
        )

    async def fingerprints(self, key_id: UUID) -> bytes:
        """Return the fingerprints of the parts that are kept, in their order."""
        return b"".join(row["fingerprints"] for row in await self._connection.fetch(FINGERPRINTS, key_id))

    async def results(self, key_id: UUID, parts: int) -> list[tuple[int, bytes]]:
        """Return of each run before that part how many were taken, and what is answered of it, in their order."""
        return [(row["taken"], row["results"]) for row in await self._connection.fetch(RESULTS, key_id, parts)]
