"""JWTs of issuers that are trusted by the configuration (RFC 7519, RFC 8725).

Nothing in a token says how it is to be verified: which keys, and which family of algorithms, is said by the
configuration of its issuer alone; `jku`, `x5u`, `x5c` and `jwk` in its header are not looked at.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import NAMESPACE_URL, UUID, uuid5

import jwt

from app.auth.jwks import Jwk, KeySet
from app.domain.access import AccessScope, Caller, CredentialKind
from app.domain.errors import UnauthorizedError
from app.settings import JWT_FAMILIES, JwtIssuer

LEEWAY_SECONDS: Final = 30
"""How far clocks may differ."""
_REQUIRED: Final = ["exp", "iss", "aud", "sub"]
# What PyJWT lets through of a token that was made to hurt: numbers out of range, and JSON too deep.
_FAULTS: Final = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)
_END_OF_TIME: Final = datetime(9999, 1, 1, tzinfo=UTC)
_LOGGED: Final = 200


class Issuers:
    """The issuers that are trusted. One per process, on one event loop."""

    def __init__(self, trusted: Sequence[JwtIssuer]) -> None:
        self._trusted: Final = {issuer.issuer: issuer for issuer in trusted}
        self._sets: Final = {
            issuer.issuer: KeySet(issuer.jwks_url, issuer.family) for issuer in trusted if issuer.jwks_url
        }

    async def verify(self, token: str) -> Caller:
        """Return whom a token was made for. Raises UnauthorizedError, IssuerUnavailableError."""
        try:
            header = jwt.get_unverified_header(token)
            said = jwt.decode(token, options={"verify_signature": False}).get("iss")
        except _FAULTS as error:
            raise UnauthorizedError("This is no credential of this service.") from error
        issuer = self._trusted.get(said) if isinstance(said, str) else None
        if issuer is None:
            raise UnauthorizedError("This token is of no issuer that is trusted here.")
        algorithms = JWT_FAMILIES[issuer.family]
        if header.get("alg") not in algorithms:
            raise UnauthorizedError("This token is signed with an algorithm that its issuer does not use.")
        key = await self._key(issuer, header)
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=algorithms,
                audience=issuer.audience,
                issuer=issuer.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": _REQUIRED},
            )
            return _caller(claims)
        except _FAULTS as error:
            reason = str(error) if isinstance(error, jwt.PyJWTError) else "A claim makes no sense"
            raise UnauthorizedError(f"This token does not hold: {reason.rstrip('.')}.") from error

    async def _key(self, issuer: JwtIssuer, header: dict[str, Any]) -> Any:  # noqa: ANN401 - what PyJWT takes
        if issuer.key is not None:
            return issuer.key.get_secret_value()
        found: Jwk | None = await self._sets[issuer.issuer].find(header.get("kid"))
        if found is None or found.algorithm not in {None, header["alg"]}:
            raise UnauthorizedError("This token is signed with a key that its issuer does not have.")
        return found.key


def owner_of(issuer: str, subject: str) -> UUID:
    """Return the owner that a subject of an issuer is, always the same (UUIDv5)."""
    return uuid5(uuid5(NAMESPACE_URL, issuer), subject)


def _caller(claims: dict[str, Any]) -> Caller:
    issuer, subject = claims["iss"], claims["sub"]
    if not subject:
        raise ValueError("the subject is empty")
    granted = claims.get("scope", "")
    names = set(granted.split()) if isinstance(granted, str) else set()
    return Caller(
        owner=owner_of(issuer, subject),
        scopes=frozenset(scope for scope in AccessScope if scope in names),
        kind=CredentialKind.JWT,
        credential=f"{subject} of {issuer}"[:_LOGGED],
        expires_at=datetime.fromtimestamp(min(int(claims["exp"]), _END_OF_TIME.timestamp()) + LEEWAY_SECONDS, UTC),
    )
