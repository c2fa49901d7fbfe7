"""`uploads`: inserted, claimed, finished and cancelled as sets, always behind the lock of their batch."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, LiteralString, TypeAlias
from uuid import UUID

from app.domain.upload import Refusal, Upload, UploadStatus

if TYPE_CHECKING:
    import asyncpg

    from app.db.pool import Connection

_NIL: Final = UUID(int=0)
_Kind: TypeAlias = tuple[UUID, UUID, UUID, int, datetime]
"""What many new rows have in common: INSERT's first parameters."""

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

BATCHES_OF: Final[LiteralString] = """
    SELECT DISTINCT batch_id FROM uploads WHERE id = ANY($1::uuid[]) AND batch_id IS NOT NULL
"""

CLAIM: Final[LiteralString] = (
    """
    WITH chosen AS (
        SELECT id, batch_id, status AS status_before FROM uploads
        WHERE id = ANY($1::uuid[])
          AND (status = 'pending' OR (status = 'processing' AND lease_expires_at < now()))
        FOR UPDATE
    )
    UPDATE uploads u SET
        status = 'processing', attempts = u.attempts + 1, lease_expires_at = now() + $2, updated_at = $3,
        batch_version = coalesce(v.version, u.batch_version + 1)
    FROM chosen c
    LEFT JOIN unnest($4::uuid[], $5::bigint[]) AS v (batch_id, version) ON v.batch_id = c.batch_id
    WHERE u.id = c.id
    RETURNING c.status_before, """
    + COLUMNS
)

FINISH: Final[LiteralString] = """
    UPDATE uploads u SET
        status = r.status, detected_type = r.detected_type, error = r.error, lease_expires_at = NULL,
        completed_at = $1, updated_at = $1, batch_version = coalesce(r.version, u.batch_version + 1)
    FROM unnest($2::uuid[], $3::int[], $4::text[], $5::text[], $6::jsonb[], $7::bigint[])
        AS r (id, attempt, status, detected_type, error, version)
    WHERE u.id = r.id AND u.lease_expires_at IS NOT NULL AND u.attempts = r.attempt
    RETURNING u.id, u.batch_id, u.status
"""
"""`lease_expires_at IS NOT NULL` is `processing`, said so that no planner reads all that is being processed for it."""

RELEASE: Final[LiteralString] = """
    UPDATE uploads u SET
        status = 'pending', attempts = u.attempts - 1, lease_expires_at = NULL, updated_at = $1,
        batch_version = coalesce(r.version, u.batch_version + 1)
    FROM unnest($2::uuid[], $3::int[], $4::bigint[]) AS r (id, attempt, version)
    WHERE u.id = r.id AND u.lease_expires_at IS NOT NULL AND u.attempts = r.attempt
    RETURNING u.batch_id
"""

CANCEL: Final[LiteralString] = """
    UPDATE uploads SET
        status = 'cancelled', lease_expires_at = NULL, completed_at = $2, updated_at = $2, batch_version = $3
    WHERE batch_id = $1 AND status IN ('receiving', 'pending', 'processing')
"""

DELETE: Final[LiteralString] = "DELETE FROM uploads u WHERE u.id = $1 AND u.user_id = $2 RETURNING " + COLUMNS

DELETE_ALL: Final[LiteralString] = "DELETE FROM uploads WHERE batch_id = $1"

FORGOTTEN: Final[LiteralString] = """
    WITH forgotten AS (
        SELECT id FROM uploads
        WHERE status IN ('pending', 'processing') AND object_id IS NOT NULL
          AND (status = 'pending' OR lease_expires_at < now())
          AND queued_at < (SELECT least($1, coalesce(min(created), now())) FROM boatload_queue.pgqueuer)
        ORDER BY queued_at
        LIMIT $2
        FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE uploads u SET queued_at = now() FROM forgotten f WHERE u.id = f.id
    RETURNING u.id
"""
"""One statement, one snapshot: an upload that is seen to be waiting, and whose job exists, has its job seen as well.

Jobs are taken in the order they came, so an upload that was queued before the oldest of them has no job any more.
"""


@dataclass(frozen=True, slots=True)
class Claimed:
    """An upload that this worker may process until its lease ends; `upload.attempts` is the fence."""

    upload: Upload
    status_before: UploadStatus


@dataclass(frozen=True, slots=True)
class Finished:
    """How an attempt at an upload ended: `error` is None exactly for `completed`."""

    upload: Upload
    """As it was claimed; its `attempts` is the number of the attempt."""
    detected_type: str | None
    error: Refusal | None

    @property
    def status(self) -> UploadStatus:
        """The final state."""
        return UploadStatus.COMPLETED if self.error is None else UploadStatus.FAILED


class Uploads:
    """The uploads, bound to one connection."""

    def __init__(self, connection: "Connection") -> None:
        self._connection: Final = connection

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
            [upload.ref for upload in uploads],
            [upload.filename for upload in uploads],
            [upload.status for upload in uploads],
            [upload.size_bytes for upload in uploads],
            [upload.received_bytes for upload in uploads],
            [upload.content_type for upload in uploads],
            [upload.sha256 for upload in uploads],
            [error_json(upload.error) for upload in uploads],
            [upload.object_offset for upload in uploads],
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

    async def batches_of(self, upload_ids: Iterable[UUID]) -> list[UUID]:
        """Return the batches, each once, that the uploads are in at this moment."""
        return [row["batch_id"] for row in await self._connection.fetch(BATCHES_OF, list(upload_ids))]

    async def claim(
        self, upload_ids: Iterable[UUID], *, lease: timedelta, versions: Mapping[UUID, int], now: datetime
    ) -> list[Claimed]:
        """Take what is `pending`, or `processing` under a lease that ran out; each take counts as an attempt.

        `versions` gives the coming version of each batch, all of which this transaction has locked.
        """
        rows = await self._connection.fetch(
            CLAIM, list(upload_ids), lease, now, list(versions.keys()), list(versions.values())
        )
        return [Claimed(upload_of(row), UploadStatus(row["status_before"])) for row in rows]

    async def finish(
        self, finished: Sequence[Finished], *, versions: Mapping[UUID, int], now: datetime
    ) -> list[tuple[UUID | None, UploadStatus]]:
        """End attempts; `versions` gives the coming version of each batch, all of which this transaction has locked.

        An attempt that is no longer the current one (the lease was lost, the batch cancelled) changes nothing. Returns
        batch and state of each upload that was changed.
        """
        rows = await self._connection.fetch(
            FINISH,
            now,
            [end.upload.id for end in finished],
            [end.upload.attempts for end in finished],
            [end.status for end in finished],
            [end.detected_type for end in finished],
            [error_json(end.error) for end in finished],
            [versions.get(end.upload.batch_id) if end.upload.batch_id else None for end in finished],
        )
        return [(row["batch_id"], UploadStatus(row["status"])) for row in rows]

    async def release(
        self, uploads: Sequence[Upload], *, versions: Mapping[UUID, int], now: datetime
    ) -> list[UUID | None]:
        """Give claimed uploads back as if they had not been tried; the sweep enqueues them again.

        `versions` as for `finish`. Returns the batch of each upload that was changed.
        """
        rows = await self._connection.fetch(
            RELEASE,
            now,
            [upload.id for upload in uploads],
            [upload.attempts for upload in uploads],
            [versions.get(upload.batch_id) if upload.batch_id else None for upload in uploads],
        )
        return [row["batch_id"] for row in rows]

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

    async def take_forgotten(self, *, queued_before: datetime, limit: int) -> list[UUID]:
        """Return uploads that need a job and have none, to be enqueued in this transaction.

        Those were queued before `queued_before` and before any job that still exists, and are `pending`, or
        `processing` under a lease that ran out. They are marked as queued now. No counts move, so no batch is locked.
        """
        rows = await self._connection.fetch(FORGOTTEN, queued_before, limit)
        return [row["id"] for row in rows]


def _kind(upload: Upload) -> _Kind:
    assert upload.batch_id
    return upload.user_id, upload.batch_id, upload.object_id or _NIL, upload.batch_version, upload.created_at


def error_json(error: Refusal | None) -> str | None:
    """Return an error as its column has it."""
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
