"""`webhook_endpoints`: the URLs that are told of an owner's batches."""

from datetime import datetime
from typing import TYPE_CHECKING, Final, LiteralString
from uuid import UUID

from app.domain.webhook import Endpoint, EventType

if TYPE_CHECKING:
    import asyncpg

    from app.db.pool import Connection

COLUMNS: Final[LiteralString] = "id, user_id, url, events, created_at, disabled_at"

INSERT: Final[LiteralString] = """
    INSERT INTO webhook_endpoints (id, user_id, url, events, created_at) VALUES ($1, $2, $3, $4, $5)
"""

FIND: Final[LiteralString] = (
    "SELECT " + COLUMNS + " FROM webhook_endpoints WHERE id = $1 AND user_id IS NOT DISTINCT FROM $2"
)

LIST: Final[LiteralString] = "SELECT " + COLUMNS + " FROM webhook_endpoints WHERE user_id = $1 ORDER BY created_at, id"

DISABLE: Final[LiteralString] = (
    "UPDATE webhook_endpoints SET disabled_at = coalesce(disabled_at, $2) WHERE id = $1 RETURNING id"
)

DELETE: Final[LiteralString] = (
    "DELETE FROM webhook_endpoints WHERE id = $1 AND user_id IS NOT DISTINCT FROM $2 RETURNING " + COLUMNS
)


class WebhookEndpoints:
    """The endpoints, bound to one connection."""

    def __init__(self, connection: "Connection") -> None:
        self._connection: Final = connection

    async def insert(self, endpoint: Endpoint) -> None:
        """Insert a new one."""
        await self._connection.execute(
            INSERT, endpoint.id, endpoint.user_id, endpoint.url, endpoint.events, endpoint.created_at
        )

    async def find(self, endpoint_id: UUID, user_id: UUID) -> Endpoint | None:
        """Return the owner's endpoint, or None where there is none of theirs."""
        row = await self._connection.fetchrow(FIND, endpoint_id, user_id)
        return _endpoint(row) if row else None

    async def list_all(self, user_id: UUID) -> list[Endpoint]:
        """Return all of the owner's, oldest first; there are never many."""
        return [_endpoint(row) for row in await self._connection.fetch(LIST, user_id)]

    async def disable(self, endpoint_id: UUID, now: datetime) -> bool:
        """Send nothing new there, from `now` on unless it is so already; False where there is no such endpoint."""
        return await self._connection.fetchval(DISABLE, endpoint_id, now) is not None

    async def delete(self, endpoint_id: UUID, user_id: UUID) -> Endpoint | None:
        """Delete the owner's endpoint, and return what it was."""
        row = await self._connection.fetchrow(DELETE, endpoint_id, user_id)
        return _endpoint(row) if row else None


def _endpoint(row: "asyncpg.Record") -> Endpoint:
    """Read the columns of COLUMNS, which are the fields of Endpoint in their order."""
    fields = dict(row)
    fields["events"] = tuple(EventType(event) for event in fields["events"])
    return Endpoint(**fields)
