"""`idempotency_keys`: requests that came with a key, and what they were answered or how far they went."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, LiteralString
from uuid import UUID

from app.domain.idempotency import Answer, RequestKey

if TYPE_CHECKING:
    import asyncpg

    from app.db.pool import Connection

COLUMNS: Final[LiteralString] = (
    "id, user_id, key, fingerprint, status, headers, body, batch_id, opened, parts, expires_at"
)

FIND: Final[LiteralString] = "SELECT " + COLUMNS + " FROM idempotency_keys WHERE user_id = $1 AND key = $2"

INSERT: Final[LiteralString] = """
    INSERT INTO idempotency_keys (id, user_id, key, fingerprint, status, headers, body, expires_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (user_id, key) DO NOTHING
    RETURNING id
"""

DELETE: Final[LiteralString] = "DELETE FROM idempotency_keys WHERE id = $1"

DELETE_EXPIRED: Final[LiteralString] = """
    WITH expired AS (
        SELECT id FROM idempotency_keys WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
    )
    DELETE FROM idempotency_keys k USING expired e WHERE k.id = e.id AND e.id IS NOT DISTINCT FROM e.id RETURNING k.id
"""


@dataclass(frozen=True, slots=True)
class Keyed:
    """One row."""

    id: UUID
    user_id: UUID
    key: str
    fingerprint: bytes
    status: int | None
    """Of the answer; None for a multipart request, whose answer is in its runs and in `body`."""
    headers: dict[str, str] | None
    """Set exactly where `status` is."""
    body: bytes | None
    """Of the answer; for a multipart request the batch as it was answered, None for as long as it has not ended."""
    batch_id: UUID | None
    """Where the files of a multipart request go."""
    opened: bool
    """Whether the multipart request opened its batch, and is to seal it."""
    parts: int
    """How many of its file parts are kept: all from the first on."""
    expires_at: datetime

    @property
    def answer(self) -> Answer | None:
        """What the request was answered; None for a multipart request."""
        if self.status is None or self.headers is None or self.body is None:
            return None
        return Answer(self.status, self.headers, self.body)


class IdempotencyKeys:
    """The keys, bound to one connection."""

    def __init__(self, connection: "Connection") -> None:
        self._connection: Final = connection

    async def find(self, user_id: UUID, key: str) -> Keyed | None:
        """Return what is known of the owner's key, though it may have expired."""
        row = await self._connection.fetchrow(FIND, user_id, key)
        return _keyed(row) if row else None

    async def insert(self, key_id: UUID, key: RequestKey, answer: Answer, expires_at: datetime) -> bool:
        """Insert a key with its answer; False where its owner has one of that name by now."""
        inserted = await self._connection.fetchval(
            INSERT,
            key_id,
            key.owner,
            key.key,
            key.fingerprint,
            answer.status,
            json.dumps(dict(answer.headers)),
            answer.body,
            expires_at,
        )
        return inserted is not None

    async def delete(self, key_id: UUID) -> None:
        """Forget a key."""
        await self._connection.execute(DELETE, key_id)

    async def delete_expired(self, now: datetime, limit: int) -> int:
        """Forget up to so many keys whose time is over, and return how many."""
        return len(await self._connection.fetch(DELETE_EXPIRED, now, limit))


def _keyed(row: "asyncpg.Record") -> Keyed:
    """Read the columns of COLUMNS, which are the fields of Keyed in their order."""
    fields = dict(row)
    fields["headers"] = json.loads(fields["headers"]) if fields["headers"] else None
    return Keyed(**fields)
