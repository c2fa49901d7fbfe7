"""`webhook_deliveries`: one message to one receiver each; read by owner, claimed and recorded by the deliverers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, LiteralString
from uuid import UUID

from app.domain.webhook import Attempt, Delivery, DeliveryStatus, EventType

if TYPE_CHECKING:
    import asyncpg

    from app.db.pool import Connection

COLUMNS: Final[LiteralString] = """
    id, user_id, batch_id, endpoint_id, type, url, status, log, reason, created_at, due_at, finished_at
"""

FIND: Final[LiteralString] = (
    "SELECT " + COLUMNS + " FROM webhook_deliveries WHERE id = $1 AND user_id IS NOT DISTINCT FROM $2"
)

LIST: Final[LiteralString] = (
    "SELECT "
    + COLUMNS
    + """ FROM webhook_deliveries
    WHERE user_id = $1 AND (created_at, id) < ($2, $3)
    ORDER BY created_at DESC, id DESC LIMIT $4"""
)

LIST_BY_STATUS: Final[LiteralString] = (
    "SELECT "
    + COLUMNS
    + """ FROM webhook_deliveries
    WHERE user_id = $1 AND status = $5 AND (created_at, id) < ($2, $3)
    ORDER BY created_at DESC, id DESC LIMIT $4"""
)

LIST_OF_BATCH: Final[LiteralString] = (
    "SELECT "
    + COLUMNS
    + """ FROM webhook_deliveries
    WHERE batch_id = $5 AND user_id = $1 AND (created_at, id) < ($2, $3) AND ($6::text IS NULL OR status = $6)
    ORDER BY created_at DESC, id DESC LIMIT $4"""
)

CLAIM: Final[LiteralString] = """
    WITH RECURSIVE receivers AS (
        (SELECT d.receiver FROM webhook_deliveries d WHERE d.status = 'pending' ORDER BY d.receiver LIMIT 1)
        UNION ALL
        SELECT (
            SELECT d.receiver FROM webhook_deliveries d WHERE d.status = 'pending' AND d.receiver > r.receiver
            ORDER BY d.receiver LIMIT 1
        ) FROM receivers r WHERE r.receiver IS NOT NULL
    ), due AS (
        SELECT d.id FROM receivers r
        LEFT JOIN unnest($4::text[], $5::int[]) AS busy (receiver, sending) ON busy.receiver = r.receiver
        CROSS JOIN LATERAL (
            SELECT d.id, d.due_at FROM webhook_deliveries d
            WHERE d.status = 'pending' AND d.receiver = r.receiver AND d.due_at <= now()
            ORDER BY d.due_at LIMIT $3 - coalesce(busy.sending, 0)
            FOR NO KEY UPDATE SKIP LOCKED
        ) d
        ORDER BY d.due_at LIMIT $2
    )
    UPDATE webhook_deliveries d SET
        attempts = d.attempts + 1, sending = true, due_at = now() + $1,
        log = CASE WHEN jsonb_array_length(d.log) < 50 THEN d.log ELSE d.log - 0 END
            || jsonb_build_object('number', d.attempts + 1, 'at', now())
    FROM due WHERE d.id = due.id AND due.id IS NOT DISTINCT FROM due.id
    RETURNING d.id, d.user_id, d.endpoint_id, d.url, d.receiver, d.payload, d.attempts, d.failures, d.begun_at
"""
"""The next few of each receiver, found by stepping from receiver to receiver: what a slow one has waiting is not read.

Until its lease ends nobody else claims one; then it comes back with its old id, because who had it was lost.
"""

RECORD: Final[LiteralString] = """
    UPDATE webhook_deliveries d SET
        sending = false, status = v.status, failures = d.failures + CASE WHEN v.status = 'delivered' THEN 0 ELSE 1 END,
        due_at = now() + $4, log = jsonb_set(d.log, '{-1}', (d.log -> -1) || $5::jsonb),
        reason = CASE WHEN v.status = 'given_up' THEN coalesce(d.reason, $6) END,
        finished_at = CASE WHEN v.status <> 'pending' THEN coalesce(d.finished_at, now()) END
    FROM (
        SELECT id, CASE WHEN status = 'pending' OR $3::text = 'delivered' THEN $3::text ELSE status END AS status
        FROM webhook_deliveries WHERE id = $1 FOR NO KEY UPDATE
    ) v
    WHERE d.id = v.id AND d.attempts = $2 AND d.sending
    RETURNING d.id
"""
"""What was given up meanwhile stays so, unless this very attempt got through."""

GIVE_UP: Final[LiteralString] = """
    UPDATE webhook_deliveries SET status = 'given_up', reason = $2, finished_at = now()
    WHERE endpoint_id = $1 AND status = 'pending'
"""

REDELIVER: Final[LiteralString] = (
    """
    UPDATE webhook_deliveries SET
        status = 'pending', reason = NULL, finished_at = NULL, failures = 0, begun_at = now(),
        due_at = CASE WHEN sending THEN greatest(due_at, now()) ELSE now() END
    WHERE id = $1 AND user_id IS NOT DISTINCT FROM $2
    RETURNING """
    + COLUMNS
)

DELETE_OLD: Final[LiteralString] = """
    DELETE FROM webhook_deliveries WHERE id = ANY(ARRAY(
        SELECT id FROM webhook_deliveries WHERE finished_at < now() - $1::interval ORDER BY finished_at LIMIT $2
    ))
    RETURNING id
"""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message that this process may send until its lease ends; `attempts` is the number of the attempt, the fence."""

    id: UUID
    user_id: UUID
    endpoint_id: UUID | None
    url: str = field(repr=False)
    receiver: str
    payload: str = field(repr=False)
    attempts: int
    failures: int
    """How many attempts have failed since `begun_at`."""
    begun_at: datetime
    """When the event happened, or when it was asked to be sent again."""


class WebhookDeliveries:
    """The deliveries, bound to one connection."""

    def __init__(self, connection: "Connection") -> None:
        self._connection: Final = connection

    async def find(self, delivery_id: UUID, user_id: UUID) -> Delivery | None:
        """Return the owner's delivery, or None where there is none of theirs."""
        row = await self._connection.fetchrow(FIND, delivery_id, user_id)
        return _delivery(row) if row else None

    async def list_page(
        self,
        user_id: UUID,
        *,
        batch_id: UUID | None,
        status: DeliveryStatus | None,
        before: tuple[datetime, UUID],
        limit: int,
    ) -> list[Delivery]:
        """Return the owner's deliveries, newest first, from just behind `before` (when made, id) on."""
        if batch_id is not None:
            rows = await self._connection.fetch(LIST_OF_BATCH, user_id, *before, limit, batch_id, status)
        elif status is not None:
            rows = await self._connection.fetch(LIST_BY_STATUS, user_id, *before, limit, status)
        else:
            rows = await self._connection.fetch(LIST, user_id, *before, limit)
        return [_delivery(row) for row in rows]

    async def claim(self, *, lease: timedelta, limit: int, per_receiver: int, busy: Mapping[str, int]) -> list[Claimed]:
        """Take up to `limit` messages that are due, and of each receiver as many as it may have beside its `busy`."""
        rows = await self._connection.fetch(CLAIM, lease, limit, per_receiver, list(busy.keys()), list(busy.values()))
        return [Claimed(**dict(row)) for row in rows]

    async def record(
        self, claimed: Claimed, attempt: Attempt, status: DeliveryStatus, *, wait: timedelta, reason: str | None
    ) -> bool:
        """Write how an attempt ended, and when the next one is due; False where it is not the current one any more."""
        result = {
            "duration_seconds": attempt.duration_seconds,
            "status_code": attempt.status_code,
            "error": attempt.error,
        }
        row = await self._connection.fetchrow(
            RECORD, claimed.id, claimed.attempts, status, wait, json.dumps(result), reason
        )
        return row is not None

    async def give_up(self, endpoint_id: UUID, reason: str) -> None:
        """Send nothing more of what waits for an endpoint."""
        await self._connection.execute(GIVE_UP, endpoint_id, reason)

    async def redeliver(self, delivery_id: UUID, user_id: UUID) -> Delivery | None:
        """Have the owner's message sent again, at once and as if for the first time; None where it is not theirs.

        One that is being sent right now is not sent beside that.
        """
        row = await self._connection.fetchrow(REDELIVER, delivery_id, user_id)
        return _delivery(row) if row else None

    async def delete_old(self, age: timedelta, *, limit: int) -> int:
        """Delete messages that ended that long ago, and return how many."""
        return len(await self._connection.fetch(DELETE_OLD, age, limit))


def _delivery(row: "asyncpg.Record") -> Delivery:
    """Read the columns of COLUMNS, which are the fields of Delivery in their order."""
    fields = dict(row)
    fields["type"] = EventType(fields["type"])
    fields["status"] = DeliveryStatus(fields["status"])
    fields["log"] = tuple(_attempt(entry) for entry in json.loads(fields["log"]))
    return Delivery(**fields)


def _attempt(entry: dict[str, Any]) -> Attempt:
    entry["at"] = datetime.fromisoformat(entry["at"]).astimezone(UTC)
    return Attempt(**entry)
