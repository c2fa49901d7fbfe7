"""What comes in: objects, uploads, and the account of their batches in one statement, if these are as expected."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, LiteralString, TypeAlias
from uuid import UUID

from app.domain.batch import Batch
from app.domain.receiving import Place
from app.domain.upload import Upload
from app.repositories.batches import SET, TOLD, Batches, columns_of
from app.repositories.quota_usage import COUNTED, QuotaUsage
from app.repositories.receiving import HELD
from app.repositories.uploads import error_json

if TYPE_CHECKING:
    from app.db.pool import Connection

_NIL: Final = UUID(int=0)
_Kind: TypeAlias = tuple[UUID, UUID, UUID, int, datetime]
"""What many new rows have in common: KEEP's parameters 22 to 26."""

KEEP: Final[LiteralString] = (
    """
    WITH locked AS MATERIALIZED (
        SELECT b.id FROM unnest($1::uuid[], $19::bigint[]) AS v (id, version)
        JOIN upload_batches b ON b.id = v.id AND b.version = v.version AND v.id IS NOT DISTINCT FROM v.id
        ORDER BY b.id
        FOR NO KEY UPDATE OF b
    ), expected AS MATERIALIZED (
        SELECT FROM locked
        HAVING count(*) = cardinality($1::uuid[]) AND NOT ($37 AND """
    + COUNTED
    + """)
    ), recorded AS (
        INSERT INTO objects (id, size_bytes)
        SELECT v.id, v.size_bytes FROM expected, unnest($20::uuid[], $21::bigint[]) AS v (id, size_bytes)
        ON CONFLICT (id) DO UPDATE SET size_bytes = greatest(objects.size_bytes, excluded.size_bytes)
    ), inserted AS (
        INSERT INTO uploads (
            id, user_id, batch_id, ref, filename, status, size_bytes, received_bytes, content_type, sha256, error,
            object_id, object_offset, batch_version, created_at, updated_at, completed_at, queued_at
        )
        SELECT
            v.id, ($22::uuid[])[v.kind], ($23::uuid[])[v.kind], v.ref, v.filename,
            CASE WHEN v.error IS NULL THEN 'pending' ELSE 'failed' END, v.size_bytes, coalesce(v.size_bytes, 0),
            v.content_type, v.sha256, v.error,
            nullif(($24::uuid[])[v.kind], '00000000-0000-0000-0000-000000000000'), v.object_offset,
            ($25::bigint[])[v.kind], ($26::timestamptz[])[v.kind], ($26::timestamptz[])[v.kind],
            CASE WHEN v.error IS NOT NULL THEN ($26::timestamptz[])[v.kind] END,
            CASE WHEN v.error IS NULL THEN now() END
        FROM expected, unnest(
            $27::int[], $28::uuid[], $29::text[], $30::text[], $31::bigint[], $32::text[], $33::bytea[], $34::jsonb[],
            $35::bigint[]
        ) AS v (kind, id, ref, filename, size_bytes, content_type, sha256, error, object_offset)
    ), saved AS (
    UPDATE"""
    + SET
    + " AND EXISTS (SELECT FROM expected)"
    + TOLD
    + """, (SELECT boatload_queue.enqueue_uploads($36::bytea[])) AS jobs FROM saved"""
)
"""The batches are locked first, and where one is not as expected nothing happens. The row that is saved is the one that
was locked, however old this statement's snapshot was by then.

Most of a thousand rows are of one kind: what they share is sent once, and each says which kind it is. Kinds have no
nulls and no texts, because only then PostgreSQL finds an element without walking the whole array.
"""


GLIMPSE: Final[LiteralString] = (
    HELD
    + """
    UNION ALL
    SELECT 0, NULL, NULL WHERE EXISTS (
        SELECT FROM unnest($4::uuid[], $5::text[]) AS r (batch_id, ref)
        CROSS JOIN LATERAL (
            SELECT u.id FROM uploads u
            WHERE (u.batch_id, u.ref) >= (r.batch_id, r.ref) AND (u.batch_id, u.ref) <= (r.batch_id, r.ref)
              AND u.ref IS NOT NULL
            ORDER BY u.batch_id, u.ref
            LIMIT 1
        ) u
    )
"""
)
"""Ranges of one as in HELD and BY_REFS, and for the same reason."""


class Arrivals:
    """What comes in, bound to one connection."""

    def __init__(self, connection: "Connection", usage: QuotaUsage, batches: Batches) -> None:
        self._connection: Final = connection
        self._usage: Final = usage
        self._batches: Final = batches

    async def glimpse(
        self, user_id: UUID, contents: Sequence[tuple[bytes, int]], refs: Sequence[tuple[UUID, str]]
    ) -> tuple[dict[int, Place], bool]:
        """Return what `ReceivingUploads.held` does, and whether an upload has one of the refs, of batches of the owner.

        As things are: a moment later an object may be gone, and a ref taken.
        """
        rows = await self._connection.fetch(
            GLIMPSE,
            user_id,
            [digest for digest, _ in contents],
            [size for _, size in contents],
            [batch_id for batch_id, _ in refs],
            [ref for _, ref in refs],
        )
        held = {row["number"] - 1: (row["object_id"], row["object_offset"]) for row in rows if row["number"]}
        return held, len(held) < len(rows)

    async def keep(
        self,
        before: Mapping[UUID, Batch],
        batches: Sequence[Batch],
        uploads: Sequence[Upload],
        objects: Sequence[tuple[UUID, int]],
        jobs: Sequence[bytes],
        *,
        alone: bool,
    ) -> bool:
        """Write new uploads, how far their objects are durable, their batches as advanced, and jobs; notify of these.

        Each upload is either `pending`, and whole, or `failed`, with an error, and has no bytes; it has changed when it
        was created, and not since. `before` has each of the batches as it is expected to be, by its version; where one
        is not, nothing is changed, and False returned; as where it is `alone` in its transaction, but what owners hold
        is counted: `settle` is to be part of it then. An open pack is recorded again as it grows. Whoever is to be told
        that a batch has ended will be, exactly if this transaction commits.
        """
        kinds, kind_of = _kinds(uploads)
        columns: list[Sequence[object]] = [[kind[column] for kind in kinds] for column in range(5)]
        self._batches.expect(before[batch.id] for batch in batches)
        rows = await self._connection.fetch(
            KEEP,
            *columns_of(batches),
            [before[batch.id].version for batch in batches],
            [object_id for object_id, _ in objects],
            [size for _, size in objects],
            *columns,
            kind_of,
            [upload.id for upload in uploads],
            _sparse([upload.ref for upload in uploads]),
            [upload.filename for upload in uploads],
            [upload.size_bytes for upload in uploads],
            _sparse([upload.content_type for upload in uploads]),
            [upload.sha256 for upload in uploads],
            _sparse([error_json(upload.error) for upload in uploads]),
            [upload.object_offset for upload in uploads],
            jobs,
            alone,
        )
        if not rows:
            return False
        self._usage.add(uploads)
        await self._batches.saved(batches, rows)
        return True


def _kinds(uploads: Sequence[Upload]) -> tuple[list[_Kind], list[int]]:
    """Return the kinds, and for each upload which it is, from 1."""
    kinds: dict[_Kind, int] = {}
    kind_of: list[int] = []
    number, last = 0, None
    for upload in uploads:
        kind = _kind(upload)
        if kind != last:  # cheap where both hold the same values; hashing ids is not
            number, last = kinds.setdefault(kind, len(kinds) + 1), kind
        kind_of.append(number)
    return list(kinds), kind_of


def _kind(upload: Upload) -> _Kind:
    assert upload.batch_id
    return upload.user_id, upload.batch_id, upload.object_id or _NIL, upload.batch_version, upload.created_at


def _sparse(values: list[str | None]) -> list[str | None]:
    """Return the values, or none where all are null: `unnest` fills up with nulls, which take long to send."""
    return values if any(value is not None for value in values) else []
