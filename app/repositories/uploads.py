"""`uploads`: inserted, read, cancelled and deleted, always behind the lock of their batch. What workers do: work.py."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, LiteralString, TypeAlias
from uuid import UUID

from app.domain.upload import Refusal, Upload, UploadStatus
from app.repositories.quota_usage import HOLDING, QuotaUsage, holding_of

if TYPE_CHECKING:
    import asyncpg

    from app.db.pool import Connection

_NIL: Final = UUID(int=0)
_Kind: TypeAlias = tuple[UUID, UUID, UUID, int, datetime]
"""What many new rows have in common: INSERT's first parameters."""

COLUMNS: Final[LiteralString] = """
    u.id, u.user_id, u.batch_id, u.ref, u.filename, u.status, u.size_bytes, u.received_bytes, u.content_type,
    u.detected_type, u.sha256, u.width, u.height, u.attempts, u.error, u.metadata, u.object_id, u.object_offset,
    u.batch_version, u.created_at, u.updated_at, u.completed_at, u.thumbnail_object_id, u.thumbnail_offset,
    u.thumbnail_bytes
"""

INSERT: Final[LiteralString] = """
    INSERT INTO uploads (
        id, user_id, batch_id, ref, filename, status, size_bytes, received_bytes, content_type, sha256, error,
        object_id, object_offset, batch_version, created_at, updated_at, completed_at, queued_at
    )
    SELECT
        v.id, ($1::uuid[])[v.kind], ($2::uuid[])[v.kind], v.ref, v.filename, v.status, v.size_bytes, v.received_bytes,
        v.content_type, v.sha256, v.error, nullif(($3::uuid[])[v.kind], '00000000-0000-0000-0000-000000000000'),
        v.object_offset, ($4::bigint[])[v.kind], ($5::timestamptz[])[v.kind], ($5::timestamptz[])[v.kind],
        CASE WHEN v.status IN ('completed', 'failed', 'cancelled') THEN ($5::timestamptz[])[v.kind] END,
        CASE WHEN v.status = 'pending' THEN now() END
    FROM unnest(
        $6::int[], $7::uuid[], $8::text[], $9::text[], $10::text[], $11::bigint[], $12::bigint[], $13::text[],
        $14::bytea[], $15::jsonb[], $16::bigint[]
    ) AS v (kind, id, ref, filename, status, size_bytes, received_bytes, content_type, sha256, error, object_offset)
"""
"""Most of a thousand rows are of one kind: what they share is sent once, and each says which kind it is.

Kinds have no nulls and no texts, because only then PostgreSQL finds an element without walking the whole array.
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

CANCEL: Final[LiteralString] = """
    UPDATE uploads SET
        status = 'cancelled', lease_expires_at = NULL, retry_at = NULL, last_error = NULL, completed_at = $2,
        updated_at = $2, batch_version = $3
    WHERE batch_id = $1 AND status IN ('receiving', 'pending', 'processing')
"""

LEAVE: Final[LiteralString] = """
    UPDATE uploads SET batch_id = NULL, batch_version = batch_version + 1, updated_at = $2 WHERE batch_id = $1
"""
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


class Uploads:
    """The uploads, bound to one connection."""

    def __init__(self, connection: "Connection", usage: QuotaUsage) -> None:
        self._connection: Final = connection
        self._usage: Final = usage

    async def insert(self, uploads: Sequence[Upload]) -> None:
        """Insert new rows; the batch of each is locked by this transaction.

        Each has a batch; its `updated_at` is its `created_at`, and so is its `completed_at` in a final state.
        """
        kinds: dict[_Kind, int] = {}
        kind_of: list[int] = []
        number, last = 0, None
        for upload in uploads:
            kind = _kind(upload)
            if kind != last:  # cheap where both hold the same values; hashing ids is not
                number, last = kinds.setdefault(kind, len(kinds) + 1), kind
            kind_of.append(number)
        await self._connection.execute(
            INSERT,
            *zip(*kinds, strict=True),
            kind_of,
            [upload.id for upload in uploads],
            _sparse([upload.ref for upload in uploads]),
            [upload.filename for upload in uploads],
            [upload.status for upload in uploads],
            [upload.size_bytes for upload in uploads],
            [upload.received_bytes for upload in uploads],
            [upload.content_type for upload in uploads],
            [upload.sha256 for upload in uploads],
            [error_json(upload.error) for upload in uploads],
            [upload.object_offset for upload in uploads],
        )
        self._usage.add(uploads)

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

    async def cancel_all(self, batch_id: UUID, *, version: int, now: datetime) -> None:
        """Cancel what is unfinished in a batch that this transaction has locked.

        What is `receiving` has let go of its bytes before; see `ReceivingUploads.drop_bytes`.
        """
        await self._connection.execute(CANCEL, batch_id, now, version)

    async def leave_all(self, batch_id: UUID, *, now: datetime) -> None:
        """Let every upload go on without its batch, which this transaction has locked and deletes."""
        await self._connection.execute(LEAVE, batch_id, now)

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


def _sparse(values: list[str | None]) -> list[str | None]:
    """Return the values, or none where all are null: `unnest` fills up with nulls, which take long to send."""
    return values if any(value is not None for value in values) else []


def _kind(upload: Upload) -> _Kind:
    assert upload.batch_id
    return upload.user_id, upload.batch_id, upload.object_id or _NIL, upload.batch_version, upload.created_at


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
