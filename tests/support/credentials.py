"""API keys of any owner in a service's database, as `boatload keys create` makes them."""

from datetime import timedelta
from typing import Final
from uuid import UUID

from app.auth.keys import KeyService
from app.db.pool import Database
from app.domain.access import AccessScope, ApiKey
from app.domain.ids import LOCAL_OWNER, new_id, utc_now
from tests.support.postgres import in_loop

ALL: Final = tuple(AccessScope)


def make_key(url: str, *, owner: UUID = LOCAL_OWNER, scopes: tuple[AccessScope, ...] = ALL, days: int = 1) -> str:
    """Return the secret of a new key in the database at `url`; one of no days or fewer has expired."""
    return make_key_row(url, owner=owner, scopes=scopes, days=days)[1]


def make_key_row(
    url: str, *, owner: UUID = LOCAL_OWNER, scopes: tuple[AccessScope, ...] = ALL, days: int = 1
) -> tuple[ApiKey, str]:
    """The same, with the key as it is kept."""

    async def run() -> tuple[ApiKey, str]:
        database = await Database.open(url, size=1)
        try:
            keys = KeyService(database, clock=utc_now, new_id=new_id)
            return await keys.create(owner, "of a test", scopes, utc_now() + timedelta(days=days))
        finally:
            await database.close()

    return in_loop(run)


def revoke_key(url: str, key: ApiKey) -> None:
    """Revoke it; a running service refuses it soon."""

    async def run() -> None:
        database = await Database.open(url, size=1)
        try:
            await KeyService(database, clock=utc_now, new_id=new_id).revoke(key.id)
        finally:
            await database.close()

    in_loop(run)


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}
