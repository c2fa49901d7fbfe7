"""Bodies that come in pieces, break off, or wait; and declared uploads to send them to."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Final

from app.domain.batch import Batch
from app.domain.errors import ChecksumMismatchError
from app.domain.receiving import NewUpload
from app.domain.upload import Upload
from tests.support.services import Services


class Broken(Exception):  # noqa: N818 - what a body raises whose client went away
    """The client went away."""


async def body(data: bytes, *, chunk: int = 64 * 1024, breaks: bool = False) -> AsyncIterator[bytes]:
    """Yield the bytes chunk by chunk, and then perhaps break off."""
    for start in range(0, len(data), chunk):
        await asyncio.sleep(0)
        yield data[start : start + chunk]
    if breaks:
        raise Broken


class Slow:
    """A body that gives what it has, says so, and goes on when it is told to: a client that is there, or seems so."""

    def __init__(self, data: bytes, rest: bytes = b"") -> None:
        self._data: Final = data
        self._rest: Final = rest
        self.given: Final = asyncio.Event()
        self.go_on: Final = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data
        self.given.set()
        await self.go_on.wait()
        if self._rest:
            yield self._rest


class Sum:
    """A checksum over a piece."""

    def __init__(self, wanted: bytes) -> None:
        self._wanted: Final = wanted
        self._hash: Final = hashlib.sha1()

    def update(self, data: bytes, /) -> None:
        self._hash.update(data)

    def verify(self) -> None:
        if self._hash.digest() != self._wanted:
            raise ChecksumMismatchError


def entry(
    ref: str, size: int | None, *, of: bytes | None = None, sha256: bytes | None = None, partial: bool = False
) -> NewUpload:
    """An entry of a manifest; `of` gives the digest of these bytes."""
    digest = hashlib.sha256(of).digest() if of is not None else sha256
    return NewUpload(ref, f"{ref}.bin", size, digest, "application/octet-stream", partial=partial)


async def declare(
    services: Services, size: int | None, *, of: bytes | None = None, ref: str = "one", batch: Batch | None = None
) -> Upload:
    """Declare one upload, in a batch of its own unless one is given."""
    batch = batch or await services.open()
    _, (declared,) = await services.manifests.declare(batch.user_id, batch.id, [entry(ref, size, of=of)])
    return declared.upload
