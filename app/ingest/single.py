"""One file as one body: into a batch under its path, or for an upload that was declared."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from app.db.pool import Database
from app.domain.batch import admit
from app.domain.errors import (
    DigestMismatchError,
    FileTooLargeError,
    NotFoundError,
    OffsetMismatchError,
    RefConflictError,
)
from app.domain.ids import Clock, Ids
from app.domain.limits import Limits
from app.domain.receiving import Check, Receiving, check_open, too_much
from app.domain.upload import Upload
from app.ingest.arrival import Arrival, Assembly
from app.ingest.budget import Budget
from app.ingest.group import GroupCommit
from app.ingest.intake import Intake
from app.ingest.quotas import QuotaService
from app.ingest.resumable import Resumable
from app.ingest.submission import Submission
from app.repositories.unit_of_work import reading
from app.storage.base import Store
from app.uninterrupted import in_thread

SMALL_BYTES: Final = 64 * 1024
"""A body that promises no more is read at once; whether it may be kept is asked with the commit."""


@dataclass(frozen=True, slots=True)
class Body:
    """A body, and what its sender says of it."""

    chunks: AsyncIterator[bytes]
    """May raise, where the sender goes away."""
    length: int | None
    """None where it does not say."""
    sha256: bytes | None = None
    """Of the whole file."""
    content_type: str | None = None
    waits: bool = False
    """It is sent only when it is asked for, so that it may be left unread."""


class SingleFiles:
    """All by owner. One per process.

    All methods may raise NotFoundError, BatchClosedError, UploadGoneError, FileTooLargeError, QuotaExceededError,
    DigestMismatchError, StorageFullError, StorageUnavailableError, DatabaseUnavailableError, and whatever the body
    raises.
    """

    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        group: GroupCommit,
        resumable: Resumable,
        budget: Budget,
        limits: Limits,
        hashers: Executor,
        quotas: QuotaService,
        clock: Clock,
        new_id: Ids,
    ) -> None:
        self._database: Final = database
        self._store: Final = store
        self._group: Final = group
        self._resumable: Final = resumable
        self._budget: Final = budget
        self._limits: Final = limits
        self._hashers: Final = hashers
        self._quotas: Final = quotas
        self._clock: Final = clock
        self._new_id: Final = new_id

    async def put(self, owner: UUID, batch_id: UUID, path: str, body: Body) -> tuple[Upload, bool]:
        """Store a file under its path, which is its ref and its name; return it, and whether this was what stored it.

        The same bytes again change nothing. A declared upload of that ref is filled. A body that breaks off stores
        nothing, but for a big one that was declared: what came of it stays, to go on behind.

        Raises RefConflictError where other bytes are there, or were declared; TooManyUploadsError, BatchFullError.
        """
        self._check_length(body)
        if body.waits or body.length is None or body.length > SMALL_BYTES:
            known = await self._look(owner, batch_id, path)
            if known:
                return await self._fill(owner, known, body, named=True)
            async with self._quotas.reserved(owner, body.length or 0):
                return await self._store_whole(owner, batch_id, body, path, ref=path)
        return await self._store_whole(owner, batch_id, body, path, ref=path)

    async def put_content(
        self,
        owner: UUID,
        upload_id: UUID,
        body: Body,
        *,
        offset: int | None,
        final_size: int | None = None,
        check: Check | None = None,
    ) -> tuple[Upload, bool]:
        """Store the bytes of a declared upload, from `offset` on where one is given; return it, and whether they did.

        Without an offset the body is the whole file: compared where the upload is whole, and taken from its beginning
        where it is not. Raises as `put` and as `Resumable.append`.
        """
        self._check_length(body)
        known = await self._resumable.look(owner, upload_id)
        check_open(known, now=self._clock())
        if offset is None and not known.partial:
            return await self._fill(owner, known, body, check=check)
        upload = await self._resumable.append(
            owner,
            upload_id,
            offset=offset or 0,
            body=body.chunks,
            length=body.length,
            final_size=final_size,
            sha256=body.sha256,
            checks=[check] if check else [],
        )
        return upload, not known.whole

    def _check_length(self, body: Body) -> None:
        if body.length is not None and body.length > self._limits.max_file_bytes:
            raise self._too_large()

    def _too_large(self) -> FileTooLargeError:
        limit = self._limits.max_file_bytes
        return FileTooLargeError(f"The file is over {limit} bytes.", max_file_bytes=limit)

    async def _look(self, owner: UUID, batch_id: UUID, ref: str) -> Receiving | None:
        """Return what is under the ref, or None where a new file may be put there."""
        async with reading(self._database) as uow:
            known = await uow.receiving.find_ref(batch_id, ref, owner)
            if known is None:
                batch = await uow.batches.find(batch_id, owner)
                if batch is None:
                    raise NotFoundError
                admit(batch, 1, max_files=self._limits.max_files_per_batch, now=self._clock())
        if known:
            check_open(known, now=self._clock())
        return known

    async def _fill(
        self, owner: UUID, known: Receiving, body: Body, *, named: bool = False, check: Check | None = None
    ) -> tuple[Upload, bool]:
        """Take a whole file for an upload; `named`: it was named by its ref, and must be all of it."""
        upload = known.upload
        if known.whole:
            return await self._compare(known, body), False
        _check_declared(known, body, named=named)
        says_more = upload.size_bytes is None or (known.refused and body.length is not None)
        size = body.length if says_more else upload.size_bytes
        begun = upload.received_bytes > 0 and not known.refused
        if size is not None and not begun and not (named and body.length is None):
            filled = await self._resumable.append(
                owner,
                upload.id,
                offset=0,
                body=body.chunks,
                length=body.length,
                final_size=size,
                sha256=body.sha256,
                checks=[check] if check else [],
            )
            return filled, True
        if body.length is not None and size is not None and body.length < size:
            raise OffsetMismatchError(upload.received_bytes)
        assert upload.batch_id
        return await self._store_whole(owner, upload.batch_id, body, upload.filename, fills=upload.id)

    async def _compare(self, known: Receiving, body: Body) -> Upload:
        """Return the upload if the body is the same bytes; it is read unless its sender waits and has said so."""
        upload = known.upload
        other = _other(upload)
        if body.sha256 not in {None, upload.sha256} or body.length not in {None, upload.size_bytes}:
            raise other
        if body.sha256 and body.waits:
            return upload
        digest, size = hashlib.sha256(), 0
        loop = asyncio.get_running_loop()
        most = self._limits.max_file_bytes
        async with Intake(body.chunks, budget=self._budget, max_bytes=most, can_wait=lambda _: True) as intake:
            while (chunks := await intake.step()) is not None:
                data = b"".join(chunks)
                size += len(data)
                try:
                    await loop.run_in_executor(self._hashers, digest.update, data)
                finally:
                    self._budget.give(len(data))
        if (digest.digest(), size) == (upload.sha256, upload.size_bytes):
            return upload
        if body.sha256:
            raise DigestMismatchError
        raise other

    async def _store_whole(
        self,
        owner: UUID,
        batch_id: UUID,
        body: Body,
        filename: str,
        *,
        ref: str | None = None,
        fills: UUID | None = None,
    ) -> tuple[Upload, bool]:
        """Take the body to its end, and commit it with whatever else waits."""
        arrival, held = await self._take(body, filename)
        try:
            arrival.ref, arrival.fills = ref, fills
            _, (upload,) = await self._group.submit(Submission(owner, batch_id, [arrival]))
        finally:
            self._budget.give(held)
        if upload.error and not arrival.already:
            raise DigestMismatchError
        return upload, not arrival.already

    async def _take(self, body: Body, filename: str) -> tuple[Arrival, int]:
        """Return the whole file, checked, and how much of the budget it holds."""
        if body.length is not None and body.length <= min(SMALL_BYTES, self._limits.pack_file_bytes):
            # Taken once it is here: who promises bytes and sends none keeps nobody else from theirs.
            data = await _joined(body.chunks)
            digest = hashlib.sha256(data).digest()
            _check_digest(body, digest)
            await self._budget.take(len(data))
            return Arrival(0, filename, body.content_type, None, len(data), digest, [data] if data else []), len(data)
        assembly = Assembly(
            0,
            filename,
            body.content_type,
            store=self._store,
            limits=self._limits,
            new_id=self._new_id,
            hashers=self._hashers,
        )
        held = 0
        try:
            async with Intake(body.chunks, budget=self._budget, max_bytes=1 << 62, can_wait=lambda _: True) as intake:
                while (chunks := await intake.step()) is not None:
                    held += sum(map(len, chunks))
                    await in_thread(_feed, assembly, chunks)
                    held = self._keep(held, assembly)
                    self._check_size(assembly)
            arrival = await in_thread(assembly.finish)
            held = self._keep(held, assembly)
            _check_digest(body, arrival.sha256)
        except BaseException:  # cancelled as well: what was taken goes back
            self._budget.give(held)
            await asyncio.shield(asyncio.to_thread(assembly.abandon))
            raise
        return arrival, held

    def _check_size(self, assembly: Assembly) -> None:
        if assembly.refused:
            raise self._too_large()

    def _keep(self, held: int, assembly: Assembly) -> int:
        self._budget.give(held - assembly.memory_bytes)
        return assembly.memory_bytes


async def _joined(chunks: AsyncIterator[bytes]) -> bytes:
    joined = bytearray()  # a list of crumbs would take many times their size
    async for chunk in chunks:
        joined += chunk
    return bytes(joined)


def _feed(assembly: Assembly, chunks: list[bytes]) -> None:
    if not chunks and assembly.memory_bytes:
        assembly.spill()
    for chunk in chunks:
        assembly.add(chunk)


def _check_digest(body: Body, sha256: bytes) -> None:
    if body.sha256 not in {None, sha256}:
        raise DigestMismatchError


def _check_declared(known: Receiving, body: Body, *, named: bool) -> None:
    """Raise SizeExceededError or RefConflictError where the body cannot be what was declared."""
    size = known.upload.size_bytes if not known.refused else None
    if body.sha256 is not None and known.declared_sha256 not in {None, body.sha256}:
        raise _other(known.upload)
    if body.length is None or size is None:
        return
    if named and body.length != size:
        raise _other(known.upload)
    if body.length > size:
        raise too_much(size)


def _other(known: Upload) -> RefConflictError:
    detail = "There is another file already: other size or other bytes. Nothing was changed."
    return RefConflictError(detail, refs=[known.ref], upload_id=str(known.id))
