"""`uploads` as workers and sweepers see them: claimed, renewed, finished, given back and enqueued as sets.

`lease_expires_at` is set exactly while `processing`, `retry_at` exactly while waiting for another attempt. `attempts`
only rises and is the fence: whoever ends an attempt names its number. What counts against an upload is `attempts -
attempts_before`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, LiteralString
from uuid import UUID

from app.domain.upload import Placed, Refusal, Upload, UploadStatus
from app.repositories.uploads import COLUMNS, error_json, upload_of

if TYPE_CHECKING:
    from app.db.pool import Connection

BATCHES_OF: Final[LiteralString] = """
    SELECT batch_id FROM uploads WHERE id = ANY($1::uuid[]) ORDER BY id
"""

CLAIM: Final[LiteralString] = (
    """
    WITH chosen AS (
        SELECT
            id, batch_id, status AS status_before, attempts,
            status = 'processing' AND attempts - attempts_before >= $4 AS spent
        FROM uploads
        WHERE id = ANY($1::uuid[]) AND (
            (status IS NOT DISTINCT FROM 'pending' AND (retry_at IS NULL OR retry_at <= now()))
            OR (status IS NOT DISTINCT FROM 'processing' AND lease_expires_at < now())
        )
        ORDER BY id
        FOR UPDATE
    ), lost AS (
        INSERT INTO upload_attempts (upload_id, attempt, ended_at, code, detail)
        SELECT id, attempts, $3, $5, $6 FROM chosen WHERE status_before = 'processing'
        ON CONFLICT (upload_id, attempt) DO NOTHING
    )
    UPDATE uploads u SET
        status = CASE WHEN c.spent THEN 'failed' ELSE 'processing' END,
        attempts = CASE WHEN c.spent THEN u.attempts ELSE u.attempts + 1 END,
        lease_expires_at = CASE WHEN NOT c.spent THEN now() + $2 END,
        retry_at = NULL,
        error = CASE WHEN c.spent THEN coalesce(u.last_error, $7::jsonb) END,
        last_error = CASE WHEN NOT c.spent THEN u.last_error END,
        completed_at = CASE WHEN c.spent THEN $3 END,
        updated_at = $3, batch_version = coalesce(v.version, u.batch_version + 1)
    FROM chosen c
    LEFT JOIN unnest($8::uuid[], $9::bigint[]) AS v (batch_id, version) ON v.batch_id = c.batch_id
    WHERE u.id = c.id
    RETURNING c.status_before, u.attempts - u.attempts_before AS counted, """
    + COLUMNS
)
"""What is not due yet is passed over. Of one whose worker went silent for the last time, only the end is written."""

RENEW: Final[LiteralString] = """
    WITH ours AS (
        SELECT r.id, r.attempt FROM unnest($1::uuid[], $2::int[]) AS r (id, attempt) CROSS JOIN LATERAL (
            SELECT FROM uploads u WHERE u.id = r.id AND u.attempts = r.attempt AND u.lease_expires_at IS NOT NULL
            LIMIT 1
        ) u
    ), free AS (
        SELECT r.id FROM unnest($1::uuid[], $2::int[]) AS r (id, attempt) CROSS JOIN LATERAL (
            SELECT FROM uploads u WHERE u.id = r.id AND u.attempts = r.attempt AND u.lease_expires_at IS NOT NULL
            LIMIT 1
            FOR NO KEY UPDATE SKIP LOCKED
        ) u
    ), renewed AS (
        UPDATE uploads u SET lease_expires_at = now() + $3 FROM free
        WHERE u.id = free.id AND free.id IS NOT DISTINCT FROM free.id
    )
    SELECT id, attempt FROM ours
"""
"""Waits for no lock, so that it can be part of no deadlock: a row that is locked is just being ended, or taken away,
and if it is not after all, the next renewal comes in time.
"""

FINISH: Final[LiteralString] = """
    WITH ended AS (
        UPDATE uploads u SET
            status = r.status, detected_type = r.detected_type, width = r.width, height = r.height,
            metadata = u.metadata || coalesce(r.metadata, '{}'), error = r.error, last_error = NULL,
            thumbnail_object_id = r.thumbnail_object_id, thumbnail_offset = r.thumbnail_offset,
            thumbnail_bytes = r.thumbnail_bytes,
            lease_expires_at = NULL, completed_at = $1, updated_at = $1,
            batch_version = coalesce(r.version, u.batch_version + 1)
        FROM unnest(
            $3::uuid[], $4::int[], $5::text[], $6::text[], $7::int[], $8::int[], $9::jsonb[], $10::jsonb[],
            $11::bigint[], $12::uuid[], $13::bigint[], $14::int[]
        ) AS r (
            id, attempt, status, detected_type, width, height, metadata, error, version, thumbnail_object_id,
            thumbnail_offset, thumbnail_bytes
        )
        WHERE u.id = r.id AND r.id IS NOT DISTINCT FROM r.id AND u.lease_expires_at IS NOT NULL
          AND u.attempts = r.attempt
        RETURNING u.id, u.batch_id, u.status, u.attempts, u.error
    ), noted AS (
        INSERT INTO upload_attempts (upload_id, attempt, ended_at, code, detail, worker)
        SELECT id, attempts, $1, error ->> 'code', error ->> 'detail', $2 FROM ended WHERE error IS NOT NULL
        ON CONFLICT (upload_id, attempt) DO NOTHING
    )
    SELECT batch_id, status FROM ended
"""
"""`lease_expires_at IS NOT NULL` is `processing`, said so that no planner reads all that is being processed for it."""

RELEASE: Final[LiteralString] = """
    WITH released AS (
        UPDATE uploads u SET
            status = 'pending', attempts_before = u.attempts_before + r.excused, lease_expires_at = NULL,
            retry_at = now() + r.delay, last_error = coalesce(r.error, u.last_error),
            queued_at = CASE WHEN r.delay IS NULL THEN now() ELSE u.queued_at END,
            updated_at = $1, batch_version = coalesce(r.version, u.batch_version + 1)
        FROM unnest($3::uuid[], $4::int[], $5::interval[], $6::int[], $7::jsonb[], $8::bigint[])
            AS r (id, attempt, delay, excused, error, version)
        WHERE u.id = r.id AND r.id IS NOT DISTINCT FROM r.id AND u.lease_expires_at IS NOT NULL
          AND u.attempts = r.attempt
        RETURNING u.id, u.batch_id, u.attempts, u.retry_at, r.error
    ), noted AS (
        INSERT INTO upload_attempts (upload_id, attempt, ended_at, code, detail, worker)
        SELECT id, attempts, $1, error ->> 'code', error ->> 'detail', $2 FROM released WHERE error IS NOT NULL
        ON CONFLICT (upload_id, attempt) DO NOTHING
    )
    SELECT id, batch_id, retry_at FROM released
"""

IN_BATCH: Final[LiteralString] = """
    SELECT count(*) FILTER (WHERE batch_id = $2) AS known
    FROM (SELECT batch_id FROM uploads WHERE id = ANY($1::uuid[]) ORDER BY id) u
"""

RETRY_ALL: Final[LiteralString] = """
    UPDATE uploads SET
        status = 'pending', attempts_before = attempts, error = NULL, completed_at = NULL, queued_at = now(),
        updated_at = $2, batch_version = $3
    WHERE batch_id = $1 AND status = 'failed' AND object_id IS NOT NULL
    RETURNING id
"""

RETRY_CHOSEN: Final[LiteralString] = """
    UPDATE uploads u SET
        status = 'pending', attempts_before = u.attempts, error = NULL, completed_at = NULL, queued_at = now(),
        updated_at = $2, batch_version = $3
    FROM unnest($1::uuid[]) AS r (id)
    WHERE u.id = r.id AND r.id IS NOT DISTINCT FROM r.id AND u.status IS NOT DISTINCT FROM 'failed'
      AND u.object_id IS NOT NULL
    RETURNING u.id
"""

SWEEP_ALONE: Final[LiteralString] = "SELECT pg_try_advisory_xact_lock(4711820331) AS alone"

FORGOTTEN: Final[LiteralString] = """
    WITH forgotten AS (
        SELECT id FROM uploads
        WHERE status IN ('pending', 'processing') AND object_id IS NOT NULL AND retry_at IS NULL
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

So one that was queued before the oldest job that exists has no job any more. Jobs are taken in the order they came, but
for those of silent workers, which are few and go first: the oldest job is never old for long.
"""

DUE: Final[LiteralString] = """
    WITH due AS (
        SELECT id FROM uploads WHERE retry_at <= now() ORDER BY retry_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE uploads u SET retry_at = NULL, queued_at = now() FROM due d WHERE u.id = d.id
    RETURNING u.id
"""

EXPIRED: Final[LiteralString] = """
    WITH expired AS (
        SELECT id FROM uploads
        WHERE status = 'processing' AND lease_expires_at < now() AND queued_at < lease_expires_at
        ORDER BY lease_expires_at
        LIMIT $1
        FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE uploads u SET queued_at = now() FROM expired e WHERE u.id = e.id
    RETURNING u.id, u.attempts - u.attempts_before AS counted
"""
"""Each is found once: from then on it was queued behind the end of its lease. If that job is lost, it is forgotten."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """An upload that was taken; `upload.attempts` is the fence. `failed` where it had been tried often enough."""

    upload: Upload
    status_before: UploadStatus
    counted: int
    """How many attempts count against it, this one among them."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How an attempt ended for good: `error` is None exactly for `completed`."""

    upload: Upload
    """As it was claimed; its `attempts` is the number of the attempt."""
    error: Refusal | None = None
    detected_type: str | None = None
    width: int | None = None
    height: int | None = None
    metadata: Mapping[str, object] | None = None
    """Merged into what is there."""
    thumbnail: Placed | None = None

    @property
    def status(self) -> UploadStatus:
        """The final state."""
        return UploadStatus.COMPLETED if self.error is None else UploadStatus.FAILED


@dataclass(frozen=True, slots=True)
class Released:
    """An upload that its worker gives back."""

    upload: Upload
    """As it was claimed."""
    delay: timedelta | None = None
    """When it is tried again; None: at once, so whoever releases it enqueues it in the same transaction."""
    error: Refusal | None = None
    """Why the attempt ended; None where it is no fault of the upload, and then the attempt does not count."""


class Work:
    """The uploads as work, bound to one connection.

    `versions` gives the coming version of each batch, all of which this transaction has locked. `worker` says who.
    """

    def __init__(self, connection: "Connection") -> None:
        self._connection: Final = connection

    async def batches_of(self, upload_ids: Iterable[UUID]) -> list[UUID]:
        """Return the batches, each once, that the uploads are in at this moment."""
        rows = await self._connection.fetch(BATCHES_OF, list(upload_ids))
        return list({row["batch_id"] for row in rows} - {None})

    async def claim(
        self,
        upload_ids: Iterable[UUID],
        *,
        lease: timedelta,
        max_attempts: int,
        lost: Refusal,
        exhausted: Refusal,
        versions: Mapping[UUID, int],
        now: datetime,
    ) -> list[Claimed]:
        """Take what is `pending` and due, or `processing` under a lease that ran out; each take is an attempt.

        Where a lease ran out, the history says of that attempt that it was `lost`; was it the last one allowed, the
        upload is `failed`, with the reason of an earlier attempt, or as `exhausted` where none gave any.
        """
        rows = await self._connection.fetch(
            CLAIM,
            list(upload_ids),
            lease,
            now,
            max_attempts,
            lost.code,
            lost.detail,
            error_json(exhausted),
            list(versions.keys()),
            list(versions.values()),
        )
        return [Claimed(upload_of(row), UploadStatus(row["status_before"]), row["counted"]) for row in rows]

    async def renew(self, attempts: Sequence[tuple[UUID, int]], *, lease: timedelta) -> set[tuple[UUID, int]]:
        """Begin the leases of these attempts (upload, number) anew, and return those that are still the current ones.

        No counts move, so no batch is locked.
        """
        rows = await self._connection.fetch(
            RENEW, [upload_id for upload_id, _ in attempts], [number for _, number in attempts], lease
        )
        return {(row["id"], row["attempt"]) for row in rows}

    async def finish(
        self, finished: Sequence[Finished], *, versions: Mapping[UUID, int], now: datetime, worker: str
    ) -> list[tuple[UUID | None, UploadStatus]]:
        """End attempts for good; those that failed are in the history from then on.

        An attempt that is no longer the current one (the lease was lost, the batch cancelled) changes nothing. Returns
        batch and state of each upload that was changed.
        """
        rows = await self._connection.fetch(
            FINISH,
            now,
            worker,
            [end.upload.id for end in finished],
            [end.upload.attempts for end in finished],
            [end.status for end in finished],
            [end.detected_type for end in finished],
            [end.width for end in finished],
            [end.height for end in finished],
            [json.dumps(end.metadata) if end.metadata else None for end in finished],
            [error_json(end.error) for end in finished],
            _versions(versions, [end.upload for end in finished]),
            [end.thumbnail.object_id if end.thumbnail else None for end in finished],
            [end.thumbnail.offset if end.thumbnail else None for end in finished],
            [end.thumbnail.size_bytes if end.thumbnail else None for end in finished],
        )
        return [(row["batch_id"], UploadStatus(row["status"])) for row in rows]

    async def release(
        self, released: Sequence[Released], *, versions: Mapping[UUID, int], now: datetime, worker: str
    ) -> list[tuple[UUID, UUID | None, bool]]:
        """Give claimed uploads back, to be tried again; attempts that ended in an error are in the history.

        Returns id and batch of each upload that was changed, and whether it is to be enqueued in this transaction.
        """
        rows = await self._connection.fetch(
            RELEASE,
            now,
            worker,
            [one.upload.id for one in released],
            [one.upload.attempts for one in released],
            [one.delay for one in released],
            [int(one.error is None) for one in released],
            [error_json(one.error) for one in released],
            _versions(versions, [one.upload for one in released]),
        )
        return [(row["id"], row["batch_id"], row["retry_at"] is None) for row in rows]

    async def retry(
        self, batch_id: UUID, upload_ids: Sequence[UUID] | None, *, version: int, now: datetime
    ) -> list[UUID]:
        """Begin another round for those that failed with their bytes stored, of these or of all in the locked batch.

        The uploads named are all of that batch. Returns the ids of those that were changed; the caller enqueues them in
        this transaction.
        """
        if upload_ids is None:
            rows = await self._connection.fetch(RETRY_ALL, batch_id, now, version)
        else:
            rows = await self._connection.fetch(RETRY_CHOSEN, upload_ids, now, version)
        return [row["id"] for row in rows]

    async def count_in_batch(self, upload_ids: Sequence[UUID], batch_id: UUID) -> int:
        """Return how many of the ids, each counted once, are of that batch."""
        known: int = await self._connection.fetchval(IN_BATCH, upload_ids, batch_id)
        return known

    async def sweep_alone(self) -> bool:
        """Say whether no other transaction sweeps; until this one ends, no other does."""
        alone: bool = await self._connection.fetchval(SWEEP_ALONE)
        return alone

    async def take_forgotten(self, *, queued_before: datetime, limit: int) -> list[UUID]:
        """Return uploads that need a job and have none, to be enqueued in this transaction.

        Those were queued before `queued_before` and before any job that still exists, and are `pending`, or
        `processing` under a lease that ran out. They are marked as queued now. No counts move, so no batch is locked.
        """
        return [row["id"] for row in await self._connection.fetch(FORGOTTEN, queued_before, limit)]

    async def take_due(self, *, limit: int) -> list[UUID]:
        """Return uploads whose wait for another attempt is over, to be enqueued in this transaction."""
        return [row["id"] for row in await self._connection.fetch(DUE, limit)]

    async def take_expired(self, *, limit: int) -> list[tuple[UUID, int]]:
        """Return uploads whose worker went silent, each once, to be enqueued in this transaction.

        With each, how many attempts count against it.
        """
        return [(row["id"], row["counted"]) for row in await self._connection.fetch(EXPIRED, limit)]


def _versions(versions: Mapping[UUID, int], uploads: Sequence[Upload]) -> list[int | None]:
    return [versions.get(upload.batch_id) if upload.batch_id else None for upload in uploads]
