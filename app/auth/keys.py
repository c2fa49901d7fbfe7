"""API keys: made and revoked by whoever runs the service, shown once, and kept as digests."""

import hashlib
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from app.auth import audit
from app.db.pool import Database
from app.domain.access import ALL_SCOPES, AccessScope, ApiKey, Caller, CredentialKind
from app.domain.errors import NotFoundError
from app.domain.ids import Clock, Ids
from app.repositories.unit_of_work import reading

PREFIX: Final = "blk_"
"""What every key begins with, so that people and scanners know one when they see it."""
_SECRET_BYTES: Final = 32


def digest_of(credential: str) -> bytes:
    """Return the SHA-256 that stands for a key. So much randomness needs no slow hash."""
    return hashlib.sha256(credential.encode()).digest()


class KeyService:
    """What an operator does with keys, of all owners. All may raise DatabaseUnavailableError."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock,
        new_id: Ids,
        random: Callable[[int], str] = secrets.token_urlsafe,
    ) -> None:
        self._database: Final = database
        self._clock: Final = clock
        self._new_id: Final = new_id
        self._random: Final = random

    async def create(
        self, owner: UUID, name: str, scopes: Sequence[AccessScope], expires_at: datetime | None
    ) -> tuple[ApiKey, str]:
        """Make a key; return it with the secret itself, which nobody can be told again."""
        secret = PREFIX + self._random(_SECRET_BYTES)
        key = ApiKey(self._new_id(), owner, name, tuple(dict.fromkeys(scopes)), self._clock(), expires_at, None, None)
        async with reading(self._database) as uow:
            await uow.api_keys.insert(key, digest_of(secret))
        audit.record("create_key", _operator(key), key_id=str(key.id), scopes=[*map(str, key.scopes)])
        return key, secret

    async def list_all(self) -> list[ApiKey]:
        """Return all keys, oldest first, revoked and expired ones too."""
        async with reading(self._database) as uow:
            return await uow.api_keys.list_all()

    async def are_there(self) -> bool:
        """Say whether a key was ever made."""
        async with reading(self._database) as uow:
            return await uow.api_keys.are_there()

    async def revoke(self, key_id: UUID) -> ApiKey:
        """Revoke a key for ever; one that is revoked already stays as it is. Raises NotFoundError."""
        async with reading(self._database) as uow:
            key = await uow.api_keys.revoke(key_id, self._clock())
        if key is None:
            raise NotFoundError
        audit.record("revoke_key", _operator(key), key_id=str(key.id))
        return key


def _operator(key: ApiKey) -> Caller:
    """Return whoever runs the commands, on behalf of a key's owner."""
    return Caller(key.user_id, ALL_SCOPES, CredentialKind.NONE, "operator")
