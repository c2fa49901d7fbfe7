"""A request whose body is the bytes of a file: its headers, strictly, and the bytes as they come."""

import re
from collections.abc import AsyncIterator
from typing import Final

from fastapi import Request

from app.api.digests import sha256_in
from app.api.multipart import media_type
from app.domain.errors import ContentRangeError, DigestMismatchError, InvalidOffsetError, UnsupportedMediaTypeError
from app.ingest.single import Body

_OFFSET: Final = re.compile(r"[0-9]{1,19}")
_MOST: Final = 2**63 - 1


class RawBody:
    """The body of one request."""

    def __init__(self, request: Request) -> None:
        self._request: Final = request

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the bytes. Raises ClientDisconnect where the sender goes away."""
        async for chunk in self._request.stream():
            if chunk:
                yield chunk

    def described(self, *, whole: bool) -> Body:
        """Return the body and what its headers say; `whole`: it is a file from its first byte to its last.

        Raises UnsupportedMediaTypeError for an encoded body, ContentRangeError, InvalidDigestError, and
        DigestMismatchError for two digests of the same bytes that differ.
        """
        headers = self._request.headers
        if headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise UnsupportedMediaTypeError("Send the body as it is, without Content-Encoding.")
        if "content-range" in headers:
            raise ContentRangeError("Send a piece with Upload-Offset, not with Content-Range.")
        sha256, content = sha256_in(headers.get("repr-digest")), sha256_in(headers.get("content-digest"))
        if whole:
            if sha256 and content and sha256 != content:
                raise DigestMismatchError
            sha256 = sha256 or content
        length = headers.get("content-length")
        content_type = headers.get("content-type")
        return Body(
            chunks=self.chunks(),
            length=int(length) if length is not None and length.isdecimal() else None,
            sha256=sha256,
            content_type=media_type(content_type.encode("latin-1")) if content_type else None,
            waits=headers.get("expect", "").strip().lower() == "100-continue",
        )


def bytes_in(request: Request, name: str) -> int | None:
    """Return the number of bytes that a header gives, None where it is not there. Raises InvalidOffsetError."""
    value = request.headers.get(name)
    if value is None:
        return None
    if not _OFFSET.fullmatch(value) or int(value) > _MOST:
        raise InvalidOffsetError(f"{name} is a number of bytes, from 0 to 2^63 - 1.")
    return int(value)
