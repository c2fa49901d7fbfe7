"""Who calls, and what they may do."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from app.domain.errors import ForbiddenError, NotFoundError
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
    renewable_until: datetime | None = None
    """A token for a batch may be renewed, and no renewed one lives longer than this."""

    def check_target(self, batch_id: UUID | None) -> None:
        """Return if the caller may add to this batch; None: to one of its own that is opened for it.

        Raises NotFoundError for another batch than that of a token, ForbiddenError where a token opens one.
        """
        if self.batch_id is None or self.batch_id == batch_id:
            return
        if batch_id is not None:
            raise NotFoundError
        raise ForbiddenError("This token may only add to its batch. Name that.", batch_id=str(self.batch_id))

    def check_unbound(self) -> None:
        """Raise ForbiddenError where a token for one batch is not enough."""
        if self.batch_id is not None:
            raise ForbiddenError("This token may only add to its batch and read it.")


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
