"""`objects`: one row for each run of bytes in the store."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, LiteralString
from uuid import UUID

import asyncpg

if TYPE_CHECKING:
    from app.db.pool import Connection

RECORD: Final[LiteralString] = """
    INSERT INTO objects (id, size_bytes)
    SELECT * FROM unnest($1::uuid[], $2::bigint[])
    ON CONFLICT (id) DO UPDATE SET size_bytes = greatest(objects.size_bytes, excluded.size_bytes)
"""

EXISTING: Final[LiteralString] = "SELECT id FROM objects WHERE id = ANY($1::uuid[])"

HOLD: Final[LiteralString] = "SELECT id FROM objects WHERE id = ANY($1::uuid[]) ORDER BY id FOR KEY SHARE"

PAGE: Final[LiteralString] = """
    SELECT
        o.id, coalesce(
            (SELECT true FROM uploads u WHERE u.object_id = o.id LIMIT 1),
            (SELECT true FROM uploads u WHERE u.thumbnail_object_id = o.id LIMIT 1),
            false
        ) AS used
    FROM (SELECT id FROM objects WHERE id > $1 ORDER BY id LIMIT $2) o
    ORDER BY o.id
"""

DELETE_UNUSED: Final[LiteralString] = """
    DELETE FROM objects o
    WHERE o.id = $1
      AND NOT EXISTS (SELECT FROM uploads u WHERE u.object_id = o.id)
      AND NOT EXISTS (SELECT FROM uploads u WHERE u.thumbnail_object_id = o.id)
"""


class Objects:
    """The objects, bound to one connection."""

    def __init__(self, connection: "Connection") -> None:
        self._connection: Final = connection

    async def record(self, sizes: Sequence[tuple[UUID, int]]) -> None:
        """Say that so many bytes of each object are durable; an open pack is recorded again as it grows."""
        if sizes:
            await self._connection.execute(RECORD, [object_id for object_id, _ in sizes], [size for _, size in sizes])

    async def existing(self, object_ids: Sequence[UUID]) -> set[UUID]:
        """Return those of the ids that have a row."""
        return {row["id"] for row in await self._connection.fetch(EXISTING, object_ids)}

    async def hold(self, object_ids: Iterable[UUID]) -> set[UUID]:
        """Keep the sweeper from these until this transaction ends, and return those that it has not taken before."""
        return {row["id"] for row in await self._connection.fetch(HOLD, list(object_ids))}

    async def list_page(self, *, after: UUID, limit: int) -> list[tuple[UUID, bool]]:
        """Return ids in their order, and whether an upload refers to each, for its bytes or its thumbnail."""
        return [(row["id"], row["used"]) for row in await self._connection.fetch(PAGE, after, limit)]

    async def delete_unused(self, object_id: UUID) -> bool:
        """Delete the row, and say whether none is there now: not where an upload refers to it, however new."""
        try:
            await self._connection.execute(DELETE_UNUSED, object_id)
        except asyncpg.ForeignKeyViolationError:
            return False
        return not await self.existing([object_id])
