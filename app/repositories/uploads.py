"""`uploads`: read, cancelled and deleted, always behind the lock of their batch. What comes in: arrivals.py."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, LiteralString
from uuid import UUID

from app.domain.batch import Tally
from app.domain.upload import Refusal, Upload, UploadStatus
from app.repositories.quota_usage import HOLDING, QuotaUsage, holding_of

if TYPE_CHECKING:
    import asyncpg

    from app.db.pool import Connection

COLUMNS: Final[LiteralString] = """
    u.id, u.user_id, u.batch_id, u.ref, u.filename, u.status, u.size_bytes, u.received_bytes, u.content_type,
    u.detected_type, u.sha256, u.width, u.height, u.attempts, u.error, u.metadata, u.object_id, u.object_offset,
    u.batch_version, u.created_at, u.updated_at, u.completed_at, u.thumbnail_object_id, u.thumbnail_offset,
    u.thumbnail_bytes
"""

FIND: Final[LiteralString] = (
    "SELECT " + COLUMNS + " FROM uploads u WHERE u.id = $1 AND u.user_id IS NOT DISTINCT FROM $2"
)

LIST: Final[LiteralString] = (
    "SELECT "
    + COLUMNS
    + " FROM (SELECT "
    + COLUMNS
    + """ FROM uploads u WHERE (u.batch_id, u.id) > ($1, $3) ORDER BY u.batch_id, u.id LIMIT $4) u
    WHERE u.batch_id = $1 AND u.user_id = $2
    ORDER BY u.id"""
)
"""The next rows in the order of (batch_id, id), their batch looked at afterwards: no planner reads a whole batch."""

LIST_BY_STATUS: Final[LiteralString] = (
    "SELECT "
    + COLUMNS
    + " FROM (SELECT "
    + COLUMNS
    + """ FROM uploads u WHERE (u.batch_id, u.status, u.id) > ($1, $5::text, $3)
        ORDER BY u.batch_id, u.status, u.id LIMIT $4) u
    WHERE u.batch_id = $1 AND u.status = $5 AND u.user_id = $2
    ORDER BY u.id"""
)

LIST_CHANGED: Final[LiteralString] = (
    "SELECT "
    + COLUMNS
    + " FROM (SELECT "
    + COLUMNS
    + """ FROM uploads u WHERE (u.batch_id, u.batch_version, u.id) > ($1, $3, $4)
        ORDER BY u.batch_id, u.batch_version, u.id LIMIT $6) u
    WHERE u.batch_id = $1 AND u.user_id = $2 AND u.batch_version <= $5
    ORDER BY u.batch_version, u.id"""
)

CHOSEN: Final[LiteralString] = (
    """
    status, count(*) AS uploads, coalesce(sum(size_bytes), 0)::bigint AS total_bytes,
    coalesce(sum(received_bytes), 0)::bigint AS received_bytes, max(id::text)::uuid AS last, """
    + HOLDING
    + " FROM chosen GROUP BY status"
)
"""What a portion of uploads was before, a row for each state."""

LET_GO: Final[LiteralString] = """
            object_id = CASE WHEN c.status <> 'receiving' THEN u.object_id END,
            object_offset = CASE WHEN c.status <> 'receiving' THEN u.object_offset END,
            received_bytes = CASE WHEN c.status <> 'receiving' THEN u.received_bytes ELSE 0 END
        FROM chosen c WHERE u.id = c.id AND c.id IS NOT DISTINCT FROM c.id
    )
    SELECT
"""
"""The end of what changes a portion: what is not whole lets go of its bytes."""

CANCEL: Final[LiteralString] = (
    """
    WITH chosen AS (
        SELECT u.id, u.status, u.size_bytes, u.received_bytes, u.object_id FROM uploads u
        WHERE (u.batch_id, u.status, u.id) > ($1, $2::text, $3)
          AND (u.batch_id, u.status, u.id) <= ($1, 'receiving', 'ffffffff-ffff-ffff-ffff-ffffffffffff')
        ORDER BY u.batch_id, u.status, u.id
        LIMIT $4
    ), cancelled AS (
        UPDATE uploads u SET
            status = 'cancelled', lease_expires_at = NULL, retry_at = NULL, last_error = NULL, completed_at = $5,
            updated_at = $5, batch_version = $6,
"""
    + LET_GO
    + CHOSEN
)
"""In the order of states `pending`, `processing` and `receiving` stand behind all others."""

LEAVE: Final[LiteralString] = (
    """
    WITH chosen AS (
        SELECT u.id, u.status, u.size_bytes, u.received_bytes, u.object_id FROM uploads u
        WHERE (u.batch_id, u.id) > ($1, $2) AND (u.batch_id, u.id) <= ($1, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
        ORDER BY u.batch_id, u.id
        LIMIT $3
    ), gone AS (
        UPDATE uploads u SET
            batch_id = NULL, batch_version = u.batch_version + 1, updated_at = $4,
            status = CASE WHEN c.status <> 'receiving' THEN u.status ELSE 'cancelled' END,
            completed_at = CASE WHEN c.status <> 'receiving' THEN u.completed_at ELSE $4 END,
"""
    + LET_GO
    + CHOSEN
)
"""The foreign key would let them go as well, but not raise the version, which is the ETag of each."""

DELETE: Final[LiteralString] = (
    "DELETE FROM uploads u WHERE u.id = $1 AND u.user_id IS NOT DISTINCT FROM $2 RETURNING " + COLUMNS
)

DELETE_ALL: Final[LiteralString] = (
    """
    WITH deleted AS (
        DELETE FROM uploads WHERE batch_id = $1 RETURNING status, size_bytes, received_bytes, object_id
    )
    SELECT """
    + HOLDING
    + " FROM deleted"
)


@dataclass(frozen=True, slots=True)
class Portion:
    """Some uploads of a batch that were changed together."""

    before: Tally
    """What they were."""
    partial_bytes: int
    """What was received of those that were `receiving`, and is let go of."""
    last: Mapping[str, UUID]
    """The last id of each state that some were in."""

    @property
    def uploads(self) -> int:
        """How many."""
        was = self.before
        return was.receiving + was.pending + was.processing + was.successful + was.failed + was.cancelled


class Uploads:
    """The uploads, bound to one connection."""

    def __init__(self, connection: "Connection", usage: QuotaUsage) -> None:
        self._connection: Final = connection
        self._usage: Final = usage

    async def find(self, upload_id: UUID, user_id: UUID) -> Upload | None:
        """Return the owner's upload, or None where there is none of theirs."""
        row = await self._connection.fetchrow(FIND, upload_id, user_id)
        return upload_of(row) if row else None

    async def list_page(
        self, batch_id: UUID, user_id: UUID, *, status: UploadStatus | None, after: UUID, limit: int
    ) -> list[Upload]:
        """Return the owner's uploads of a batch in the order of their ids, from just behind `after` on."""
        if status is None:
            rows = await self._connection.fetch(LIST, batch_id, user_id, after, limit)
        else:
            rows = await self._connection.fetch(LIST_BY_STATUS, batch_id, user_id, after, limit, status)
        return [upload_of(row) for row in rows]

    async def list_changed(
        self, batch_id: UUID, user_id: UUID, *, after: tuple[int, UUID], until: int, limit: int
    ) -> list[Upload]:
        """Return the owner's uploads of a batch in the order of (batch_version, id), from just behind `after` on.

        Only up to the version `until`, which is one that the batch has had: what moves while this goes on has a later
        one, so a caller that goes on from the last row misses nothing.
        """
        rows = await self._connection.fetch(LIST_CHANGED, batch_id, user_id, *after, until, limit)
        return [upload_of(row) for row in rows]

    async def cancel(
        self, batch_id: UUID, user_id: UUID, *, after: tuple[str, UUID], limit: int, version: int, now: datetime
    ) -> Portion:
        """Cancel up to so many that are unfinished in a batch of that owner, which this transaction has locked.

        In the order of (state, id), from just behind `after` on. What is `receiving` lets go of its bytes.
        """
        return self._portion(user_id, await self._connection.fetch(CANCEL, batch_id, *after, limit, now, version))

    async def leave(self, batch_id: UUID, user_id: UUID, *, after: UUID, limit: int, now: datetime) -> Portion:
        """Let up to so many uploads go on without the batch of that owner, which this transaction has locked.

        In the order of their ids, from just behind `after` on. What is `receiving` is cancelled.
        """
        return self._portion(user_id, await self._connection.fetch(LEAVE, batch_id, after, limit, now))

    async def delete(self, upload_id: UUID, user_id: UUID) -> Upload | None:
        """Delete the owner's upload, whose batch this transaction has locked, and return what it was."""
        row = await self._connection.fetchrow(DELETE, upload_id, user_id)
        if row is None:
            return None
        deleted = upload_of(row)
        self._usage.remove([deleted])
        return deleted

    async def delete_all(self, batch_id: UUID, user_id: UUID) -> None:
        """Delete every upload of a batch of that owner, which this transaction has locked."""
        held = await self._connection.fetchrow(DELETE_ALL, batch_id)
        assert held
        self._usage.move(user_id, -holding_of(held))

    def _portion(self, user_id: UUID, rows: "Sequence[asyncpg.Record]") -> Portion:
        """Read the columns of CHOSEN, a row for each state, and count out what those hold that were `receiving`."""
        counts: dict[str, int] = {row["status"]: row["uploads"] for row in rows}
        receiving = next((row for row in rows if row["status"] == UploadStatus.RECEIVING), None)
        if receiving:
            self._usage.move(user_id, -holding_of(receiving))
        before = Tally(
            counts.get(UploadStatus.RECEIVING, 0),
            counts.get(UploadStatus.PENDING, 0),
            counts.get(UploadStatus.PROCESSING, 0),
            counts.get(UploadStatus.COMPLETED, 0),
            counts.get(UploadStatus.FAILED, 0),
            counts.get(UploadStatus.CANCELLED, 0),
            sum(row["total_bytes"] for row in rows),
            sum(row["received_bytes"] for row in rows),
        )
        partial_bytes = receiving["received_bytes"] if receiving else 0
        return Portion(before, partial_bytes, {row["status"]: row["last"] for row in rows})


def error_json(error: Refusal | None) -> str | None:
    """Return what the `error` columns hold."""
    return json.dumps({"code": error.code, "detail": error.detail}) if error else None


def upload_of(row: "asyncpg.Record") -> Upload:
    """Read the columns of COLUMNS; others that a statement adds are passed over."""
    error = json.loads(row["error"]) if row["error"] else None
    return Upload(
        id=row["id"],
        user_id=row["user_id"],
        batch_id=row["batch_id"],
        ref=row["ref"],
        filename=row["filename"],
        status=UploadStatus(row["status"]),
        size_bytes=row["size_bytes"],
        received_bytes=row["received_bytes"],
        content_type=row["content_type"],
        detected_type=row["detected_type"],
        sha256=row["sha256"],
        width=row["width"],
        height=row["height"],
        attempts=row["attempts"],
        error=Refusal(error["code"], error["detail"]) if error else None,
        metadata=json.loads(row["metadata"]),
        object_id=row["object_id"],
        object_offset=row["object_offset"],
        batch_version=row["batch_version"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        completed_at=row["completed_at"],
        thumbnail_object_id=row["thumbnail_object_id"],
        thumbnail_offset=row["thumbnail_offset"],
        thumbnail_bytes=row["thumbnail_bytes"],
    )
