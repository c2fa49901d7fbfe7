"""`service_keys`: secrets that all processes of one service share; made by the migration."""

from typing import TYPE_CHECKING, Final, LiteralString

if TYPE_CHECKING:
    from app.db.pool import Connection

GET: Final[LiteralString] = "SELECT key FROM service_keys WHERE name = $1"


class ServiceKeys:
    """The keys, bound to one connection."""

    def __init__(self, connection: "Connection") -> None:
        self._connection: Final = connection

    async def get(self, name: str) -> bytes:
        """Return the key of that name. Raises LookupError where the migration made none."""
        key: bytes | None = await self._connection.fetchval(GET, name)
        if key is None:
            raise LookupError(f"service_keys has no row {name!r}; run 'boatload migrate up'")
        return key
