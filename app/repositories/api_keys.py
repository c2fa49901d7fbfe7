"""`api_keys`: who may call, by the digest of what they show. A row is never deleted: a revoked key stays known."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final, LiteralString
from uuid import UUID

from app.domain.access import AccessScope, ApiKey

if TYPE_CHECKING:
    import asyncpg

    from app.db.pool import Connection

COLUMNS: Final[LiteralString] = "id, user_id, name, scopes, created_at, expires_at, revoked_at, last_used_at"

INSERT: Final[LiteralString] = """
    INSERT INTO api_keys (id, user_id, name, digest, scopes, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
"""

FIND: Final[LiteralString] = "SELECT " + COLUMNS + " FROM api_keys WHERE digest = $1"

LIST: Final[LiteralString] = "SELECT " + COLUMNS + " FROM api_keys ORDER BY created_at, id"

ANY: Final[LiteralString] = "SELECT EXISTS (SELECT FROM api_keys)"

REVOKE: Final[LiteralString] = (
    "UPDATE api_keys SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1 RETURNING " + COLUMNS
)

# In the order of ids, so that two processes that write the same keys do not wait for each other in a circle.
NOTE_USES: Final[LiteralString] = """
    WITH used AS (
        SELECT k.id, u.at
        FROM (SELECT id, at FROM unnest($1::uuid[], $2::timestamptz[]) AS v (id, at) ORDER BY id) u
        CROSS JOIN LATERAL (SELECT id FROM api_keys WHERE id = u.id LIMIT 1 FOR NO KEY UPDATE) k
    )
    UPDATE api_keys k SET last_used_at = greatest(k.last_used_at, used.at) FROM used
    WHERE k.id = used.id AND used.id IS NOT DISTINCT FROM used.id
"""


class ApiKeys:
    """The keys, bound to one connection."""

    def __init__(self, connection: "Connection") -> None:
        self._connection: Final = connection

    async def insert(self, key: ApiKey, digest: bytes) -> None:
        """Insert a new one, whose secret has this SHA-256."""
        await self._connection.execute(
            INSERT, key.id, key.user_id, key.name, digest, key.scopes, key.created_at, key.expires_at
        )

    async def find(self, digest: bytes) -> ApiKey | None:
        """Return the key whose secret has this SHA-256, revoked and expired ones too, or None."""
        row = await self._connection.fetchrow(FIND, digest)
        return _key(row) if row else None

    async def list_all(self) -> list[ApiKey]:
        """Return the keys of all owners, oldest first."""
        return [_key(row) for row in await self._connection.fetch(LIST)]

    async def are_there(self) -> bool:
        """Say whether any key was ever made."""
        found: bool = await self._connection.fetchval(ANY)
        return found

    async def revoke(self, key_id: UUID, now: datetime) -> ApiKey | None:
        """Revoke a key from `now` on, unless it is so already; return it, or None where there is none."""
        row = await self._connection.fetchrow(REVOKE, key_id, now)
        return _key(row) if row else None

    async def note_uses(self, uses: Mapping[UUID, datetime]) -> None:
        """Write down when keys were last used."""
        await self._connection.execute(NOTE_USES, [*uses], [*uses.values()])


def _key(row: "asyncpg.Record") -> ApiKey:
    """Read the columns of COLUMNS, which are the fields of ApiKey in their order."""
    fields = dict(row)
    fields["scopes"] = tuple(AccessScope(scope) for scope in fields["scopes"])
    return ApiKey(**fields)
