"""`upload_attempts`: the attempts that ended in an error. The statements of work.py write it, with the upload."""

from typing import TYPE_CHECKING, Final, LiteralString
from uuid import UUID

from app.domain.upload import Attempt, Refusal

if TYPE_CHECKING:
    from app.db.pool import Connection

LIST: Final[LiteralString] = """
    SELECT attempt, ended_at, code, detail, worker FROM upload_attempts
    WHERE upload_id = $1 AND attempt > $2
    ORDER BY attempt LIMIT $3
"""


class UploadAttempts:
    """The history, bound to one connection."""

    def __init__(self, connection: "Connection") -> None:
        self._connection: Final = connection

    async def list_page(self, upload_id: UUID, *, after: int, limit: int) -> list[Attempt]:
        """Return attempts at an upload in their order, from just behind number `after` on."""
        rows = await self._connection.fetch(LIST, upload_id, after, limit)
        return [
            Attempt(row["attempt"], row["ended_at"], Refusal(row["code"], row["detail"]), row["worker"]) for row in rows
        ]
