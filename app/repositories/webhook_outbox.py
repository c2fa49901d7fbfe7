"""The outbox: the rows of `webhook_deliveries` that the end of a batch makes, in the transaction that ends it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, LiteralString
from uuid import UUID

from app.domain.batch import Batch
from app.domain.ids import Ids, new_id
from app.domain.webhook import event_of, payload_of
from app.domain.webhook_url import receiver_of

if TYPE_CHECKING:
    from app.db.pool import Connection

TARGETS: Final[LiteralString] = """
    SELECT DISTINCT ON (b.id, t.url) b.id AS batch_id, t.endpoint_id, t.url
    FROM upload_batches b CROSS JOIN LATERAL (
        (
            SELECT e.id AS endpoint_id, e.url FROM webhook_endpoints e
            WHERE e.user_id = b.user_id AND e.disabled_at IS NULL AND ('batch.' || b.status) = ANY(e.events)
            OFFSET 0
        )
        UNION ALL
        SELECT NULL, b.webhook_url WHERE b.webhook_url IS NOT NULL
    ) t
    WHERE b.id = ANY($1::uuid[])
    ORDER BY b.id, t.url, t.endpoint_id
"""
"""A URL that is named twice is told once. `OFFSET 0` keeps planners from reading the webhooks of others."""

INSERT: Final[LiteralString] = """
    INSERT INTO webhook_deliveries (
        id, user_id, batch_id, endpoint_id, type, url, receiver, payload, created_at, begun_at, due_at
    )
    SELECT v.*, now(), now()
    FROM unnest(
        $1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[],
        $9::timestamptz[]
    ) AS v (id, user_id, batch_id, endpoint_id, type, url, receiver, payload, created_at)
"""


class WebhookOutbox:
    """The outbox, bound to one connection."""

    def __init__(self, connection: "Connection", ids: Ids = new_id) -> None:
        self._connection: Final = connection
        self._new_id: Final = ids

    async def add(self, batches: Sequence[Batch]) -> None:
        """Add a message to each receiver of each batch that came to its end with the change just saved.

        Costs nothing where none did, and one look-up where nobody is to be told.
        """
        ended = {batch.id: (batch, event) for batch in batches if (event := event_of(batch))}
        targets = await self._connection.fetch(TARGETS, list(ended)) if ended else []
        if not targets:
            return
        rows: list[tuple[object, ...]] = []
        payloads: dict[UUID, str] = {}
        for target in targets:
            batch, event = ended[target["batch_id"]]
            payload = payloads.get(batch.id) or payloads.setdefault(batch.id, payload_of(batch, event))
            receiver = receiver_of(target["url"])
            owner, endpoint_id, url = batch.user_id, target["endpoint_id"], target["url"]
            rows.append((self._new_id(), owner, batch.id, endpoint_id, event, url, receiver, payload, batch.updated_at))
        await self._connection.execute(INSERT, *(list(column) for column in zip(*rows, strict=True)))
