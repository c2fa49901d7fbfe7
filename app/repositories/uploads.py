"""`uploads`: inserted, read, cancelled and deleted, always behind the lock of their batch. What workers do: work.py."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, LiteralString
from uuid import UUID

from app.domain.upload import Refusal, Upload, UploadStatus

if TYPE_CHECKING:
    import asyncpg

    from app.db.pool import Connection

COLUMNS: Final[LiteralString] = """
    u.id, u.user_id, u.batch_id, u.ref, u.filename, u.status, u.size_bytes, u.received_bytes, u.content_type,
    u.detected_type, u.sha256, u.width, u.height, u.attempts, u.error, u.metadata, u.object_id, u.object_offset,
    u.batch_version, u.created_at, u.updated_at, u.completed_at
"""

INSERT: Final[LiteralString] = """
    INSERT INTO uploads (
        id, user_id, batch_id, ref, filename, status, size_bytes, received_bytes, content_type, sha256, error,
        object_id, object_offset, batch_version, created_at, updated_at, completed_at, queued_at
    )
    SELECT v.*, CASE WHEN v.status = 'pending' THEN now() END
    FROM unnest(
        $1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[],
        $9::text[], $10::bytea[], $11::jsonb[], $12::uuid[], $13::bigint[], $14::bigint[], $15::timestamptz[],
        $16::timestamptz[], $17::timestamptz[]
    ) AS v (
        id, user_id, batch_id, ref, filename, status, size_bytes, received_bytes, content_type, sha256, error,
        object_id, object_offset, batch_version, created_at, updated_at, completed_at
    )
"""

FIND: Final[LiteralString] = "SELECT " + COLUMNS + " FROM uploads u WHERE u.id = $1 AND u.user_id = $2"

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

CANCEL: Final[LiteralString] = """
    UPDATE uploads SET
        status = 'cancelled', lease_expires_at = NULL, retry_at = NULL, last_error = NULL, completed_at = $2,
        updated_at = $2, batch_version = $3
    WHERE batch_id = $1 AND status IN ('receiving', 'pending', 'processing')
"""

DELETE: Final[LiteralString] = "DELETE FROM uploads u WHERE u.id = $1 AND u.user_id = $2 RETURNING " + COLUMNS

DELETE_ALL: Final[LiteralString] = "DELETE FROM uploads WHERE batch_id = $1"


class Uploads:
    """The uploads, bound to one connection."""

    def __init__(self, connection: "Connection") -> None:
        self._connection: Final = connection

    async def insert(self, uploads: Sequence[Upload]) -> None:
        """Insert new rows; the batch of each is locked by this transaction."""
        await self._connection.execute(
            INSERT,
            [upload.id for upload in uploads],
            [upload.user_id for upload in uploads],
            [upload.batch_id for upload in uploads],
            [upload.ref for upload in uploads],
            [upload.filename for upload in uploads],
            [upload.status for upload in uploads],
            [upload.size_bytes for upload in uploads],
            [upload.received_bytes for upload in uploads],
            [upload.content_type for upload in uploads],
            [upload.sha256 for upload in uploads],
            [error_json(upload.error) for upload in uploads],
            [upload.object_id for upload in uploads],
            [upload.object_offset for upload in uploads],
            [upload.batch_version for upload in uploads],
            [upload.created_at for upload in uploads],
            [upload.updated_at for upload in uploads],
            [upload.completed_at for upload in uploads],
        )

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

    async def cancel_all(self, batch_id: UUID, *, version: int, now: datetime) -> None:
        """Cancel what is unfinished in a batch that this transaction has locked."""
        await self._connection.execute(CANCEL, batch_id, now, version)

    async def delete(self, upload_id: UUID, user_id: UUID) -> Upload | None:
        """Delete the owner's upload, whose batch this transaction has locked, and return what it was."""
        row = await self._connection.fetchrow(DELETE, upload_id, user_id)
        return upload_of(row) if row else None

    async def delete_all(self, batch_id: UUID) -> None:
        """Delete every upload of a batch that this transaction has locked."""
        await self._connection.execute(DELETE_ALL, batch_id)


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
    )
