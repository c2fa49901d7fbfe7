"""`uploads` on their way in: declared, found by ref, filled, refused, expired; behind the lock of their batch."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, LiteralString
from uuid import UUID

from app.domain.batch import BatchStatus
from app.domain.receiving import NewUpload, Receiving
from app.domain.upload import Upload
from app.repositories.quota_usage import HOLDING, QuotaUsage, holding_of
from app.repositories.uploads import COLUMNS, error_json, upload_of

if TYPE_CHECKING:
    import asyncpg

    from app.db.pool import Connection

MORE: Final[LiteralString] = ", u.declared_sha256, u.partial, u.expires_at, u.takeover"

FIND: Final[LiteralString] = (
    "SELECT "
    + COLUMNS
    + MORE
    + """, (SELECT b.status FROM upload_batches b WHERE b.id = u.batch_id) AS batch_status
    FROM uploads u WHERE u.id = $1 AND u.user_id IS NOT DISTINCT FROM $2"""
)

FIND_REF: Final[LiteralString] = (
    "SELECT "
    + COLUMNS
    + MORE
    + """, (SELECT b.status FROM upload_batches b WHERE b.id = u.batch_id) AS batch_status
    FROM uploads u WHERE u.batch_id = $1 AND u.ref = $2 AND u.user_id IS NOT DISTINCT FROM $3"""
)

BY_IDS: Final[LiteralString] = (
    "SELECT "
    + COLUMNS
    + MORE
    + """, NULL::text AS batch_status FROM uploads u WHERE u.id = ANY($1::uuid[]) ORDER BY u.id"""
)
BY_REFS: Final[LiteralString] = (
    "SELECT u.*, NULL::text AS batch_status FROM unnest($1::uuid[], $2::text[]) AS r (batch_id, ref) "
    "CROSS JOIN LATERAL (SELECT "
    + COLUMNS
    + MORE
    + """ FROM uploads u
        WHERE (u.batch_id, u.ref) >= (r.batch_id, r.ref) AND (u.batch_id, u.ref) <= (r.batch_id, r.ref)
          AND u.ref IS NOT NULL
        ORDER BY u.batch_id, u.ref
        LIMIT 1
    ) u"""
)
"""A range of one in the order of the index. An equality would be looked for among all that a batch holds, by a plan
that was made while it held nothing."""
LOCK: Final[LiteralString] = BY_IDS + " FOR NO KEY UPDATE"
LOCK_REFS: Final[LiteralString] = BY_REFS.replace("LIMIT 1", "LIMIT 1 FOR NO KEY UPDATE")
"""No two rows are locked by two transactions in turn: whoever asks has the locks of the batches."""

INSERT: Final[LiteralString] = """
    INSERT INTO uploads (
        id, user_id, batch_id, ref, filename, status, size_bytes, received_bytes, content_type, sha256, metadata,
        object_id, object_offset, batch_version, created_at, updated_at, queued_at, declared_sha256, partial, expires_at
    )
    SELECT
        v.id, $1, $2, v.ref, v.filename, v.status, v.size_bytes, v.received_bytes, v.content_type, v.sha256,
        coalesce(v.metadata, '{}'), v.object_id, v.object_offset, $3, $4, $4,
        CASE WHEN v.status = 'pending' THEN now() END, v.declared_sha256, v.partial, $5
    FROM unnest(
        $6::uuid[], $7::text[], $8::text[], $9::text[], $10::bigint[], $11::bigint[], $12::text[], $13::bytea[],
        $14::jsonb[], $15::uuid[], $16::bigint[], $17::bytea[], $18::boolean[]
    ) AS v (
        id, ref, filename, status, size_bytes, received_bytes, content_type, sha256, metadata, object_id,
        object_offset, declared_sha256, partial
    )
"""

WRITE: Final[LiteralString] = """
    UPDATE uploads u SET
        status = v.status, size_bytes = v.size_bytes, received_bytes = v.received_bytes, sha256 = v.sha256,
        error = v.error, object_id = v.object_id, object_offset = v.object_offset, batch_version = v.batch_version,
        updated_at = v.updated_at, completed_at = v.completed_at,
        queued_at = CASE WHEN v.status = 'pending' THEN now() END,
        expires_at = coalesce(u.expires_at, CASE WHEN v.status = 'receiving' THEN (
            SELECT b.expires_at FROM upload_batches b WHERE b.id = u.batch_id
        ) END)
    FROM unnest(
        $1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bytea[], $6::jsonb[], $7::uuid[], $8::bigint[],
        $9::bigint[], $10::timestamptz[], $11::timestamptz[]
    ) AS v (
        id, status, size_bytes, received_bytes, sha256, error, object_id, object_offset, batch_version, updated_at,
        completed_at
    )
    WHERE u.id = v.id AND v.id IS NOT DISTINCT FROM v.id
"""
"""A file that was refused as it came was never declared: it expires from the moment it is to be sent again."""

MOVE: Final[LiteralString] = """
    WITH batch AS (
        SELECT id, version FROM upload_batches WHERE id = $1 AND status IS NOT DISTINCT FROM 'processing'
        FOR NO KEY UPDATE
    ), moved AS (
        UPDATE uploads u SET
            received_bytes = $2, object_id = $3, object_offset = 0, batch_version = batch.version + 1, updated_at = $4
        FROM batch
        WHERE u.id = $5 AND (u.batch_id, u.status, u.received_bytes, u.object_id, u.size_bytes)
            IS NOT DISTINCT FROM ($1, 'receiving', $6, $7, $8)
        RETURNING u.batch_id, u.batch_version
    ), recorded AS (
        INSERT INTO objects (id, size_bytes) SELECT $3, $2 FROM moved
        ON CONFLICT (id) DO UPDATE SET size_bytes = greatest(objects.size_bytes, excluded.size_bytes)
    ), saved AS (
        UPDATE upload_batches b SET
            received_bytes = b.received_bytes + $2 - $6, version = moved.batch_version, updated_at = $4
        FROM moved WHERE b.id = moved.batch_id
        RETURNING b.id, b.version
    )
    SELECT version, pg_notify('boatload_batches', id::text || ' ' || version::text) FROM saved
"""
"""Each step reads the one before: the batch is locked before the upload, and where the upload is not as it was nothing
happens. The row that is saved is the one that was locked, however old this statement's snapshot was by then. What is
compared by IS NOT DISTINCT FROM leads no planner to the indexes of states."""

ASK: Final[LiteralString] = "UPDATE uploads SET takeover = $2 WHERE id = $1"

WATCH: Final[LiteralString] = """
    SELECT id, takeover, status = 'receiving' AS receiving FROM uploads WHERE id = ANY($1::uuid[]) ORDER BY id
"""

HELD: Final[LiteralString] = """
    SELECT v.number, h.object_id, h.object_offset
    FROM unnest($2::bytea[], $3::bigint[]) WITH ORDINALITY AS v (sha256, size_bytes, number)
    CROSS JOIN LATERAL (
        SELECT u.object_id, u.object_offset FROM uploads u
        WHERE (u.user_id, u.sha256, u.size_bytes) >= ($1, v.sha256, v.size_bytes)
          AND (u.user_id, u.sha256, u.size_bytes) <= ($1, v.sha256, v.size_bytes)
          AND u.sha256 IS NOT NULL AND u.object_id IS NOT NULL
        ORDER BY u.user_id, u.sha256, u.size_bytes
        LIMIT 1
    ) h
"""
"""A range of one in the order of the index, not an equality: no planner reads a table that holds one thing often."""

EXPIRED: Final[LiteralString] = """
    SELECT id, batch_id FROM uploads WHERE status = 'receiving' AND expires_at <= $1 ORDER BY expires_at LIMIT $2
"""

DELETE_EXPIRED_PARTS: Final[LiteralString] = (
    """
    WITH deleted AS (
        DELETE FROM uploads u USING unnest($1::uuid[]) AS v (id)
        WHERE u.id = v.id AND v.id IS NOT DISTINCT FROM v.id AND u.partial
          AND u.status IS NOT DISTINCT FROM 'receiving' AND u.expires_at <= $2
        RETURNING u.user_id, u.status, u.size_bytes, u.received_bytes, u.object_id
    )
    SELECT user_id, """
    + HOLDING
    + " FROM deleted GROUP BY user_id"
)


class ReceivingUploads:
    """Uploads that bytes are still to come for, bound to one connection."""

    def __init__(self, connection: "Connection", usage: QuotaUsage) -> None:
        self._connection: Final = connection
        self._usage: Final = usage
        self._before: Final[dict[UUID, Upload]] = {}
        """The rows that this transaction has locked, as they are."""

    async def find(self, upload_id: UUID, user_id: UUID) -> Receiving | None:
        """Return the owner's upload, or None where there is none of theirs."""
        row = await self._connection.fetchrow(FIND, upload_id, user_id)
        return _receiving(row) if row else None

    async def find_ref(self, batch_id: UUID, ref: str, user_id: UUID) -> Receiving | None:
        """Return what is under a ref of the owner's batch, if anything."""
        row = await self._connection.fetchrow(FIND_REF, batch_id, ref, user_id)
        return _receiving(row) if row else None

    async def lock(self, upload_ids: Iterable[UUID]) -> list[Receiving]:
        """Lock rows whose batches this transaction has locked; their `batch_status` is left out."""
        return self._locked(await self._connection.fetch(LOCK, sorted(upload_ids)))

    async def lock_refs(self, refs: Sequence[tuple[UUID, str]]) -> list[Receiving]:
        """Lock what is under these refs of batches that this transaction has locked, as `lock` does."""
        return self._locked(await self._connection.fetch(LOCK_REFS, *zip(*refs, strict=True)))

    async def list_by_ids(self, upload_ids: Iterable[UUID]) -> list[Receiving]:
        """Return the rows as they are, whoever owns them; their `batch_status` is left out."""
        return [_receiving(row) for row in await self._connection.fetch(BY_IDS, sorted(upload_ids))]

    async def list_by_refs(self, refs: Sequence[tuple[UUID, str]]) -> list[Receiving]:
        """Return what is under these refs, as `list_by_ids` does."""
        return [_receiving(row) for row in await self._connection.fetch(BY_REFS, *zip(*refs, strict=True))]

    async def insert(
        self,
        uploads: Sequence[Upload],
        declared: Sequence[NewUpload],
        *,
        user_id: UUID,
        batch_id: UUID | None,
        version: int,
        now: datetime,
        expires_at: datetime | None,
    ) -> None:
        """Insert what is declared: each is `receiving`, or `pending` where its bytes are held already.

        All are of one owner and one batch, which this transaction has locked, and of one moment.
        """
        await self._connection.execute(
            INSERT,
            user_id,
            batch_id,
            version,
            now,
            expires_at,
            [upload.id for upload in uploads],
            [upload.ref for upload in uploads],
            [upload.filename for upload in uploads],
            [upload.status for upload in uploads],
            [upload.size_bytes for upload in uploads],
            [upload.received_bytes for upload in uploads],
            [upload.content_type for upload in uploads],
            [upload.sha256 for upload in uploads],
            [json.dumps(upload.metadata) if upload.metadata else None for upload in uploads],
            [upload.object_id for upload in uploads],
            [upload.object_offset for upload in uploads],
            [entry.sha256 for entry in declared],
            [entry.partial for entry in declared],
        )
        self._usage.add(uploads)

    async def write(self, uploads: Sequence[Upload]) -> None:
        """Write rows that this transaction has locked: state, size, bytes, error. `pending` ones are to be enqueued."""
        if not uploads:
            return
        await self._connection.execute(
            WRITE,
            [upload.id for upload in uploads],
            [upload.status for upload in uploads],
            [upload.size_bytes for upload in uploads],
            [upload.received_bytes for upload in uploads],
            [upload.sha256 for upload in uploads],
            [error_json(upload.error) for upload in uploads],
            [upload.object_id for upload in uploads],
            [upload.object_offset for upload in uploads],
            [upload.batch_version for upload in uploads],
            [upload.updated_at for upload in uploads],
            [upload.completed_at for upload in uploads],
        )
        self._usage.remove([self._before[upload.id] for upload in uploads])
        self._usage.add(uploads)
        self._before.update((upload.id, upload) for upload in uploads)

    async def move(self, before: Upload, received: int, object_id: UUID, *, now: datetime) -> int | None:
        """Move an upload that is `receiving` on to its new durable bytes, and its batch along, in one statement.

        It is of a known size, so that what its owner holds stays the same. Return the batch's new version; None, and
        nothing changed, where the upload is not as `before`, or in no batch
        that is `processing`.
        """
        version: int | None = await self._connection.fetchval(
            MOVE,
            before.batch_id,
            received,
            object_id,
            now,
            before.id,
            before.received_bytes,
            before.object_id,
            before.size_bytes,
        )
        return version

    async def ask(self, upload_id: UUID, takeover: UUID) -> None:
        """Leave word for the upload's writer, wherever it is, that somebody waits."""
        await self._connection.execute(ASK, upload_id, takeover)

    async def watch(self, upload_ids: Sequence[UUID]) -> Mapping[UUID, UUID | None]:
        """Return the `takeover` of those of the uploads that are still `receiving`."""
        rows = await self._connection.fetch(WATCH, upload_ids)
        return {row["id"]: row["takeover"] for row in rows if row["receiving"]}

    async def held(self, user_id: UUID, contents: Sequence[tuple[bytes, int]]) -> dict[int, tuple[UUID, int]]:
        """Return where the owner's bytes of these digests and sizes lie: by place in `contents`, object and offset.

        The object may be gone a moment later: see `Objects.hold`.
        """
        rows = await self._connection.fetch(
            HELD, user_id, [digest for digest, _ in contents], [size for _, size in contents]
        )
        return {row["number"] - 1: (row["object_id"], row["object_offset"]) for row in rows}

    async def list_expired(self, *, now: datetime, limit: int) -> list[tuple[UUID, UUID | None]]:
        """Return uploads that are `receiving` past their time, longest first, each with its batch."""
        return [(row["id"], row["batch_id"]) for row in await self._connection.fetch(EXPIRED, now, limit)]

    async def delete_parts(self, upload_ids: Sequence[UUID], *, now: datetime) -> None:
        """Delete those of the uploads that are parts past their time."""
        for row in await self._connection.fetch(DELETE_EXPIRED_PARTS, upload_ids, now):
            self._usage.move(row["user_id"], -holding_of(row))

    def _locked(self, rows: "Sequence[asyncpg.Record]") -> list[Receiving]:
        found = [_receiving(row) for row in rows]
        self._before.update((one.upload.id, one.upload) for one in found)
        return found


def _receiving(row: "asyncpg.Record") -> Receiving:
    return Receiving(
        upload=upload_of(row),
        declared_sha256=row["declared_sha256"],
        partial=row["partial"],
        expires_at=row["expires_at"],
        takeover=row["takeover"],
        batch_status=BatchStatus(row["batch_status"]) if row["batch_status"] else None,
    )
