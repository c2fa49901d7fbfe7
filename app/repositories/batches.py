"""`upload_batches`: reads by owner, and the lock-then-write that all counting goes through."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, LiteralString
from uuid import UUID

from app.domain.batch import FINAL_BATCH, Batch, BatchStatus
from app.domain.quota import Holding
from app.repositories.quota_usage import COUNTING, QuotaUsage
from app.repositories.webhook_outbox import WebhookOutbox

if TYPE_CHECKING:
    import asyncpg

    from app.db.pool import Connection

CHANNEL: Final[LiteralString] = "boatload_batches"
"""NOTIFY channel; the payload is `<batch id> <version>`. A batch that is deleted gets a last version."""

COLUMNS: Final[LiteralString] = """
    id, user_id, label, status, expected_uploads, total_uploads, receiving_uploads, pending_uploads,
    processing_uploads, processed_uploads, successful_uploads, failed_uploads, cancelled_uploads, total_bytes,
    received_bytes, error_message, metadata, version, created_at, started_at, sealed_at, completed_at, updated_at,
    expires_at
"""

INSERT: Final[LiteralString] = (
    """
    INSERT INTO upload_batches (
        id, user_id, label, expected_uploads, metadata, created_at, updated_at, expires_at, webhook_url, processors
    ) VALUES ($1, $2, $3, $4, $5, $6, $6, $7, $8, $9)
    RETURNING """
    + COUNTING
)

FIND: Final[LiteralString] = (
    "SELECT " + COLUMNS + " FROM upload_batches WHERE id = $1 AND user_id IS NOT DISTINCT FROM $2"
)

BY_IDS: Final[LiteralString] = "SELECT " + COLUMNS + " FROM upload_batches WHERE id = ANY($1::uuid[]) ORDER BY id"
PROCESSORS_OF: Final[LiteralString] = """
    SELECT id, processors FROM upload_batches WHERE id = ANY($1::uuid[]) AND processors IS NOT NULL ORDER BY id
"""

LIST: Final[LiteralString] = (
    "SELECT "
    + COLUMNS
    + """ FROM upload_batches
    WHERE user_id = $1 AND (created_at, id) < ($2, $3)
    ORDER BY created_at DESC, id DESC LIMIT $4"""
)

LIST_BY_STATUS: Final[LiteralString] = (
    "SELECT "
    + COLUMNS
    + """ FROM upload_batches
    WHERE user_id = $1 AND (created_at, id) < ($2, $3) AND status = $5
    ORDER BY created_at DESC, id DESC LIMIT $4"""
)

LOCK: Final[LiteralString] = (
    "SELECT " + COLUMNS + """ FROM upload_batches WHERE id = ANY($1::uuid[]) ORDER BY id FOR NO KEY UPDATE"""
)

LOCK_OWNED: Final[LiteralString] = (
    "SELECT " + COLUMNS + """ FROM upload_batches WHERE id = $1 AND user_id IS NOT DISTINCT FROM $2 FOR UPDATE"""
)

SET: Final[LiteralString] = """
    upload_batches b SET
        status = v.status, total_uploads = v.total_uploads, receiving_uploads = v.receiving_uploads,
        pending_uploads = v.pending_uploads, processing_uploads = v.processing_uploads,
        processed_uploads = v.processed_uploads, successful_uploads = v.successful_uploads,
        failed_uploads = v.failed_uploads, cancelled_uploads = v.cancelled_uploads,
        total_bytes = v.total_bytes, received_bytes = v.received_bytes, error_message = v.error_message,
        version = v.version, started_at = v.started_at, sealed_at = v.sealed_at,
        completed_at = v.completed_at, updated_at = v.updated_at
    FROM unnest(
        $1::uuid[], $2::text[], $3::int[], $4::int[], $5::int[], $6::int[], $7::int[], $8::int[], $9::int[],
        $10::int[], $11::bigint[], $12::bigint[], $13::text[], $14::bigint[], $15::timestamptz[],
        $16::timestamptz[], $17::timestamptz[], $18::timestamptz[]
    ) AS v (
        id, status, total_uploads, receiving_uploads, pending_uploads, processing_uploads, processed_uploads,
        successful_uploads, failed_uploads, cancelled_uploads, total_bytes, received_bytes, error_message,
        version, started_at, sealed_at, completed_at, updated_at
    )
    WHERE b.id = v.id AND v.id IS NOT DISTINCT FROM v.id
"""
"""What is updated where batches are saved; `columns_of` makes its parameters."""
TOLD: Final[LiteralString] = (
    """
    RETURNING b.id, b.version
    )
    SELECT pg_notify('boatload_batches', id::text || ' ' || version::text), """
    + COUNTING
)
"""The end of what saves batches, but for FROM saved: each is notified of."""
SAVE: Final[LiteralString] = "WITH saved AS (UPDATE" + SET + TOLD + " FROM saved"

DELETE: Final[LiteralString] = (
    """
    WITH deleted AS (DELETE FROM upload_batches WHERE id = $1 RETURNING id, version)
    SELECT pg_notify('boatload_batches', id::text || ' ' || (version + 1)::text), """
    + COUNTING
    + " FROM deleted"
)


class Batches:
    """The batches, bound to one connection."""

    def __init__(self, connection: "Connection", usage: QuotaUsage) -> None:
        self._connection: Final = connection
        self._usage: Final = usage
        self._open: Final[dict[UUID, int]] = {}
        """For each row that this transaction has locked or made, whether it is open, as a number."""
        self._outbox: Final = WebhookOutbox(connection)

    async def insert(
        self, batch: Batch, *, webhook_url: str | None = None, processors: Sequence[str] | None = None
    ) -> None:
        """Insert a batch that is as `new_batch` made it; `webhook_url` is told when it ends.

        `processors` None: it leaves open which ones run.
        """
        self._usage.counting = await self._connection.fetchval(
            INSERT,
            batch.id,
            batch.user_id,
            batch.label,
            batch.expected_uploads,
            json.dumps(batch.metadata),
            batch.created_at,
            batch.expires_at,
            webhook_url,
            processors,
        )
        self._open[batch.id] = 0
        self._count(batch.user_id, batch.id, is_open=True)

    async def processors_of(self, batch_ids: Iterable[UUID]) -> dict[UUID, tuple[str, ...]]:
        """Return the names that batches chose, in order; those that chose none, or are gone, are left out."""
        rows = await self._connection.fetch(PROCESSORS_OF, list(batch_ids))
        return {row["id"]: tuple(row["processors"]) for row in rows}

    async def find(self, batch_id: UUID, user_id: UUID) -> Batch | None:
        """Return the owner's batch, or None where there is none of theirs."""
        row = await self._connection.fetchrow(FIND, batch_id, user_id)
        return _batch(row) if row else None

    async def list_page(
        self, user_id: UUID, *, status: BatchStatus | None, before: tuple[datetime, UUID], limit: int
    ) -> list[Batch]:
        """Return the owner's batches, newest first, from just behind `before` (when made, id) on."""
        if status is None:
            rows = await self._connection.fetch(LIST, user_id, *before, limit)
        else:
            rows = await self._connection.fetch(LIST_BY_STATUS, user_id, *before, limit, status)
        return [_batch(row) for row in rows]

    async def list_by_ids(self, batch_ids: Iterable[UUID]) -> list[Batch]:
        """Return the batches, whoever owns them, in no order; those that do not exist are left out."""
        return [_batch(row) for row in await self._connection.fetch(BY_IDS, list(batch_ids))]

    async def lock(self, batch_ids: Iterable[UUID]) -> dict[UUID, Batch]:
        """Lock the rows in the order of their ids, whoever owns them; those that are gone are left out."""
        rows = await self._connection.fetch(LOCK, list(batch_ids))
        return {row["id"]: self._locked(_batch(row)) for row in rows}

    async def lock_owned(self, batch_id: UUID, user_id: UUID) -> Batch | None:
        """Lock the owner's row, firmly enough to delete it; None where there is none of theirs."""
        row = await self._connection.fetchrow(LOCK_OWNED, batch_id, user_id)
        return self._locked(_batch(row)) if row else None

    async def save(self, batches: Sequence[Batch]) -> None:
        """Write rows that this transaction has locked and advanced, and notify of their new versions.

        Whoever is to be told that a batch has ended will be, exactly if this transaction commits.
        """
        if batches:
            await self.saved(batches, await self._connection.fetch(SAVE, *columns_of(batches)))

    def expect(self, batches: Iterable[Batch]) -> None:
        """Say how rows are that this transaction has not locked yet, and writes only if they are so."""
        for batch in batches:
            self._open.setdefault(batch.id, int(batch.status not in FINAL_BATCH))

    async def saved(self, batches: Sequence[Batch], rows: "Sequence[asyncpg.Record]") -> None:
        """Draw the conclusions from batches that a statement with TOLD has written, whose `rows` these are."""
        self._usage.counting = rows[0]["counting"]
        for batch in batches:
            self._count(batch.user_id, batch.id, is_open=batch.status not in FINAL_BATCH)
        await self._outbox.add(batches)

    async def delete(self, batch: Batch) -> None:
        """Delete a row that this transaction has locked, and notify of it; its uploads stay, with no batch."""
        self._usage.counting = await self._connection.fetchval(DELETE, batch.id, column=1)
        self._count(batch.user_id, batch.id, is_open=False)

    def _locked(self, batch: Batch) -> Batch:
        self._open[batch.id] = int(batch.status not in FINAL_BATCH)
        return batch

    def _count(self, owner: UUID, batch_id: UUID, *, is_open: bool) -> None:
        """Count a batch among those of its owner that are open, or no longer."""
        change = is_open - self._open[batch_id]
        self._open[batch_id] = int(is_open)
        if change:
            self._usage.move(owner, Holding(open_batches=change))


def columns_of(batches: Sequence[Batch]) -> list[list[object]]:
    """Return the parameters of SET."""
    return [
        [batch.id for batch in batches],
        [batch.status for batch in batches],
        [batch.total_uploads for batch in batches],
        [batch.receiving_uploads for batch in batches],
        [batch.pending_uploads for batch in batches],
        [batch.processing_uploads for batch in batches],
        [batch.processed_uploads for batch in batches],
        [batch.successful_uploads for batch in batches],
        [batch.failed_uploads for batch in batches],
        [batch.cancelled_uploads for batch in batches],
        [batch.total_bytes for batch in batches],
        [batch.received_bytes for batch in batches],
        [batch.error_message for batch in batches],
        [batch.version for batch in batches],
        [batch.started_at for batch in batches],
        [batch.sealed_at for batch in batches],
        [batch.completed_at for batch in batches],
        [batch.updated_at for batch in batches],
    ]


def _batch(row: "asyncpg.Record") -> Batch:
    """Read the columns of COLUMNS, which are the fields of Batch in their order."""
    fields = dict(row)
    fields["status"] = BatchStatus(fields["status"])
    fields["metadata"] = json.loads(fields["metadata"])
    return Batch(**fields)
