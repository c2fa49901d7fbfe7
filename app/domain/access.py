"""Who calls, and what they may do."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from app.domain.ids import LOCAL_OWNER


class AccessScope(StrEnum):
    """What a credential is good for. None includes another."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"
    """What reaches beyond batches and uploads: webhooks, which are told of all that an owner has."""


ALL_SCOPES: Final = frozenset(AccessScope)


class CredentialKind(StrEnum):
    """How somebody showed who they are."""

    NONE = "none"
    KEY = "key"
    JWT = "jwt"
    TOKEN = "token"  # noqa: S105 - a kind of credential, not one


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request, by the credential that came with it."""

    owner: UUID
    scopes: frozenset[AccessScope]
    kind: CredentialKind
    credential: str
    """Which credential of its kind, fit for a log: the id of a key or a token, who a JWT was made for by whom."""
    batch_id: UUID | None = None
    """The only batch that it may add to and read; None: all of the owner's."""
    expires_at: datetime | None = None
    """From then on it is refused; None: it does not expire."""


ANYBODY: Final = Caller(LOCAL_OWNER, ALL_SCOPES, CredentialKind.NONE, "none")
"""Whoever comes without a credential, where that is allowed."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept: its secret is not."""

    id: UUID
    user_id: UUID
    name: str
    """For people; nothing goes by it."""
    scopes: tuple[AccessScope, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """To the minute; None before the first use."""

    def state(self, now: datetime) -> str:
        """Return `active`, `revoked` or `expired`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"
