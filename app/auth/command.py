"""What `boatload keys` does, and what `boatload serve` asks before it listens."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from app.auth.keys import KeyService
from app.db.pool import Database
from app.domain.access import AccessScope
from app.domain.errors import NotFoundError
from app.domain.ids import LOCAL_OWNER, new_id, utc_now
from app.settings import Settings

USUAL: Final = (AccessScope.READ, AccessScope.WRITE)
_NEW: Final = "new"
_HEADS: Final = ("id", "state", "scopes", "owner", "created", "expires", "last used", "name")


@asynccontextmanager
async def _service(dsn: str) -> AsyncGenerator[KeyService]:
    database = await Database.open(dsn, size=1)
    try:
        yield KeyService(database, clock=utc_now, new_id=new_id)
    finally:
        await database.close()


async def may_serve(settings: Settings, dsn: str) -> bool:
    """Say whether strangers are kept out, or are let in by the explicit word of the operator."""
    if settings.allow_anonymous or settings.on_loopback or settings.jwt_issuers:
        return True
    async with _service(dsn) as keys:
        return await keys.are_there()


def owner_of(user: str | None) -> UUID:
    """Return the owner that `--user` names. Raises ValueError."""
    if user is None:
        return LOCAL_OWNER
    return new_id() if user == _NEW else UUID(user)


async def create(dsn: str, owner: UUID, name: str, scopes: Sequence[AccessScope], days: int | None) -> tuple[str, str]:
    """Make a key; return its secret, and a line about it for people."""
    expires_at = utc_now() + timedelta(days=days) if days else None
    async with _service(dsn) as keys:
        key, secret = await keys.create(owner, name, scopes or USUAL, expires_at)
    return secret, f"Key {key.id} of {key.user_id}, for {' and '.join(key.scopes)}. Keep it: it is not shown again."


async def lines(dsn: str) -> list[str]:
    """Return the keys as a table."""
    now = utc_now()
    async with _service(dsn) as keys:
        rows = [
            (
                str(key.id),
                key.state(now),
                ",".join(key.scopes),
                str(key.user_id),
                _moment(key.created_at),
                _moment(key.expires_at),
                _moment(key.last_used_at),
                key.name if key.name.isprintable() else ascii(key.name),
            )
            for key in await keys.list_all()
        ]
    widths = [max(map(len, column)) for column in zip(_HEADS, *rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in [_HEADS, *rows]]


async def revoke(dsn: str, key_id: UUID) -> bool:
    """Revoke a key; False where there is none."""
    async with _service(dsn) as keys:
        try:
            await keys.revoke(key_id)
        except NotFoundError:
            return False
    return True


def _moment(at: datetime | None) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M") if at else "never"
