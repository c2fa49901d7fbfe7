"""Digest fields (RFC 9530): what a client says of its bytes, and what it wants to be told."""

import base64
import binascii
import hashlib
import re
from typing import Final

from app.domain.errors import ChecksumMismatchError, InvalidDigestError

_MEMBER: Final = re.compile(
    r"[ \t]*([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/]*={0,2}):(?:[ \t]*;[ \t]*[a-z*][a-z0-9_.*=-]*)*[ \t]*"
)
_WISH: Final = re.compile(r"[ \t]*sha-256=(10|[0-9])[ \t]*")
_SHA256_BYTES: Final = 32


def sha256_in(field: str | None) -> bytes | None:
    """Return the SHA-256 that a `Repr-Digest` or `Content-Digest` names, None where it names none.

    Digests of other kinds are passed over (RFC 9530 §2). Raises InvalidDigestError for a field that is no dictionary of
    byte sequences (RFC 8941 §3.2), or a SHA-256 of another length than 32 bytes.
    """
    if field is None:
        return None
    found = None
    for member in field.split(","):
        match = _MEMBER.fullmatch(member)
        if match is None:
            raise InvalidDigestError("The digest field is not of the form sha-256=:base64:.")
        try:
            value = base64.b64decode(match[2], validate=True)
        except binascii.Error:
            raise InvalidDigestError("The digest is not base64.") from None
        if match[1] == "sha-256":
            if len(value) != _SHA256_BYTES:
                raise InvalidDigestError(f"A SHA-256 has {_SHA256_BYTES} bytes, not {len(value)}.")
            found = value
    return found


def wants_sha256(field: str | None) -> bool:
    """Say whether a `Want-Repr-Digest` asks for a SHA-256 (RFC 9530 §4); what makes no sense asks for nothing."""
    wishes = (_WISH.fullmatch(wish) for wish in (field or "").split(","))
    return any(wish is not None and wish[1] != "0" for wish in wishes)


def repr_digest(sha256: bytes) -> str:
    """Return the `Repr-Digest` of a file."""
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"


class ContentDigest:
    """The SHA-256 that a piece must have."""

    def __init__(self, sha256: bytes) -> None:
        self._wanted: Final = sha256
        self._hash: Final = hashlib.sha256()

    def update(self, data: bytes, /) -> None:
        """Take the next bytes."""
        self._hash.update(data)

    def verify(self) -> None:
        """Raise ChecksumMismatchError where they were others."""
        if self._hash.digest() != self._wanted:
            raise ChecksumMismatchError
