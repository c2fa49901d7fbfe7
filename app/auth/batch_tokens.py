"""Tokens that are good for one batch: signed by the service itself, and kept nowhere.

Whoever may write to a batch may make one, for a page or a program that is to add files to it and see nothing else. It
does not end with the credential that it was made by, can be renewed by itself up to an end, and is worth nothing once
its batch is deleted.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import jwt

from app.domain.access import AccessScope, Caller, CredentialKind
from app.domain.errors import UnauthorizedError
from app.domain.ids import Clock, Ids

PREFIX: Final = "blt_"
"""What every token begins with."""
LIFE: Final = timedelta(hours=1)
LONGEST_LIFE: Final = timedelta(days=1)
RENEWABLE: Final = timedelta(days=7)
"""From the first token on; each renewed one ends by then."""
_ALGORITHM: Final = "HS256"
_CLAIMS: Final = ["exp", "jti", "sub", "batch", "scope", "end"]
_LENT: Final = frozenset({AccessScope.READ, AccessScope.WRITE})


@dataclass(frozen=True, slots=True)
class BatchToken:
    """A token, and what there is to say of it."""

    id: UUID
    secret: str
    batch_id: UUID
    scopes: frozenset[AccessScope]
    expires_at: datetime
    renewable_until: datetime


class BatchTokens:
    """Makes and reads tokens; all processes of a service share the key that they are signed with."""

    def __init__(self, key: bytes, *, clock: Clock, new_id: Ids) -> None:
        self._key: Final = key
        self._clock: Final = clock
        self._new_id: Final = new_id

    def issue(self, caller: Caller, batch_id: UUID, life: timedelta) -> BatchToken:
        """Return a token for a batch of the caller's, with no scope that the caller lacks; to the second.

        A caller that came by a token of its own renews that: the new one may not be renewed for longer.
        """
        now = self._clock().replace(microsecond=0)
        end = caller.renewable_until or now + RENEWABLE
        token_id, expires_at = self._new_id(), min(now + life, end)
        scopes = caller.scopes & _LENT
        claims = {
            "jti": str(token_id),
            "sub": str(caller.owner),
            "batch": str(batch_id),
            "scope": " ".join(sorted(scopes)),
            "exp": int(expires_at.timestamp()),
            "end": int(end.timestamp()),
        }
        secret = PREFIX + jwt.encode(claims, self._key, _ALGORITHM)
        return BatchToken(token_id, secret, batch_id, scopes, expires_at, end)

    def read(self, secret: str) -> Caller:
        """Return who comes with a token. Raises UnauthorizedError."""
        try:
            # Only what was signed here is read any further. The end is compared with our own clock.
            claims = jwt.decode(
                secret.removeprefix(PREFIX),
                self._key,
                [_ALGORITHM],
                options={"require": _CLAIMS, "verify_exp": False},
            )
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise UnauthorizedError("This is no token of this service.") from error
        expires_at = datetime.fromtimestamp(claims["exp"], UTC)
        if expires_at <= self._clock():
            raise UnauthorizedError("This token has expired. Ask whoever gave it to you for another one.")
        return Caller(
            owner=UUID(claims["sub"]),
            scopes=frozenset(map(AccessScope, claims["scope"].split())),
            kind=CredentialKind.TOKEN,
            credential=claims["jti"],
            batch_id=UUID(claims["batch"]),
            expires_at=expires_at,
            renewable_until=datetime.fromtimestamp(claims["end"], UTC),
        )
