"""`quotas`: how much owners may hold. The row of NOBODY holds for all whom no row names; null there is no limit."""

from typing import TYPE_CHECKING, Final, LiteralString
from uuid import UUID

from app.domain.quota import Quota

if TYPE_CHECKING:
    from app.db.pool import Connection

PUT: Final[LiteralString] = """
    INSERT INTO quotas (user_id, bytes, files, open_batches, open_uploads) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (user_id) DO UPDATE SET
        bytes = excluded.bytes, files = excluded.files, open_batches = excluded.open_batches,
        open_uploads = excluded.open_uploads
"""

DELETE: Final[LiteralString] = "DELETE FROM quotas WHERE user_id = $1"

LIST: Final[LiteralString] = "SELECT user_id, bytes, files, open_batches, open_uploads FROM quotas ORDER BY user_id"


class Quotas:
    """The quotas, bound to one connection."""

    def __init__(self, connection: "Connection") -> None:
        self._connection: Final = connection

    async def put(self, owner: UUID, quota: Quota) -> None:
        """Set what an owner may hold; where it says None, the same as everybody."""
        await self._connection.execute(PUT, owner, quota.bytes, quota.files, quota.open_batches, quota.open_uploads)

    async def delete(self, owner: UUID) -> None:
        """Let an owner hold the same as everybody."""
        await self._connection.execute(DELETE, owner)

    async def list_all(self) -> dict[UUID, Quota]:
        """Return what is set, by owner."""
        rows = await self._connection.fetch(LIST)
        return {
            row["user_id"]: Quota(row["bytes"], row["files"], row["open_batches"], row["open_uploads"]) for row in rows
        }
