"""The bytes of declared uploads, piece by piece, from whatever door: one writer each, offsets that are durable."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Final
from uuid import UUID

from app.domain.errors import FileTooLargeError, PartsUnfinishedError, UploadLockedError
from app.domain.ids import Clock, Ids
from app.domain.limits import STEP_BYTES, Limits
from app.domain.receiving import Check, Receiving, check_open, check_piece, too_much
from app.domain.upload import Upload
from app.ingest.budget import Budget
from app.ingest.group import GroupCommit
from app.ingest.ledger import Ledger
from app.ingest.piece import Piece
from app.ingest.running_digests import RunningDigests
from app.ingest.uploads import UploadService
from app.ingest.writers import TAKEOVER_SECONDS, Writer, Writers
from app.storage.base import ObjectWriter, Store

_THREADS: Final = 2
_RETRY_SECONDS: Final = 0.05


class Resumable:
    """Receives the bytes of declared uploads, piece by piece. All by owner. One per process."""

    def __init__(
        self,
        *,
        store: Store,
        ledger: Ledger,
        writers: Writers,
        group: GroupCommit,
        uploads: UploadService,
        budget: Budget,
        limits: Limits,
        clock: Clock,
        new_id: Ids,
    ) -> None:
        self._store: Final = store
        self._ledger: Final = ledger
        self._writers: Final = writers
        self._group: Final = group
        self._uploads: Final = uploads
        self._budget: Final = budget
        self._limits: Final = limits
        self._clock: Final = clock
        self._new_id: Final = new_id
        self._threads: Final = ThreadPoolExecutor(_THREADS, thread_name_prefix="resume")
        self._digests: Final = RunningDigests(store, self._threads)

    async def close(self) -> None:
        """Have every piece end, with what is durable of it in its row; then end the threads."""
        await self._writers.close()
        self._threads.shutdown()

    async def get(self, owner: UUID, upload_id: UUID) -> Upload:
        """Return an upload; its `received_bytes` are the offset. Raises NotFoundError, DatabaseUnavailableError."""
        return (await self._ledger.get(owner, upload_id)).upload

    async def look(self, owner: UUID, upload_id: UUID) -> Receiving:
        """Return an upload with all that was declared of it. Raises as `get` does."""
        return await self._ledger.get(owner, upload_id)

    async def settle(self, owner: UUID, upload_id: UUID) -> Receiving:
        """Stop the upload's writer in this process, if there is one, and return the upload with the offset that stays.

        For a client that asks where to go on: its old connection may still be open here. Raises as `get` does, and
        UploadLockedError where that writer does not end in time.
        """
        known = await self._ledger.get(owner, upload_id)
        if self._writers.is_held(upload_id):
            async with self._writers.take(upload_id):
                known = await self._ledger.get(owner, upload_id)
        return known

    async def append(
        self,
        owner: UUID,
        upload_id: UUID,
        *,
        offset: int,
        body: AsyncIterator[bytes],
        length: int | None = None,
        final_size: int | None = None,
        sha256: bytes | None = None,
        checks: Sequence[Check] = (),
        known: Receiving | None = None,
    ) -> Upload:
        """Write `body` behind the durable bytes, which must be exactly `offset` of them.

        `length`: what the body promises to hold, None where it is chunked. `final_size`: declares the size now. A body
        that breaks off keeps what is durable, and raises what `body` raised after the row says so. The last piece makes
        the upload whole: its digest is compared with the declared one, and it becomes `pending` with its job, in one
        transaction; `sha256` does for this call where none was declared. `checks` are over this piece alone; where one
        fails, or the body breaks off before they can be asked, nothing of the piece is kept. An upload that failed
        without bytes begins anew. `known`: the upload, where the caller has read it just now.

        Takes over from a writer that is still there: that one is stopped, what it made durable stays, and then the
        offset is compared.

        Raises NotFoundError, OffsetMismatchError, UploadLockedError (held elsewhere and not let go in time, or taken
        over by a later request), BatchClosedError, UploadGoneError, SizeExceededError, SizeConflictError,
        FileTooLargeError, DigestMismatchError, ChecksumMismatchError, StorageFullError, StorageUnavailableError,
        DatabaseUnavailableError.
        """
        known = known or await self._ledger.get(owner, upload_id)
        self._check(known, offset, length, final_size)
        async with self._writers.take(upload_id) as writer:
            check = partial(self._check, offset=offset, length=length, final_size=final_size)
            known, taken = await self._take_bytes(known, writer, check)
            if known.whole:
                await _expect_nothing(body, known)
                return known.upload
            try:
                known = await self._ledger.begin(known, final_size=final_size)
            except BaseException:
                if taken:
                    await asyncio.to_thread(taken.close)
                raise
            self._writers.watch(writer, known.takeover)
            known = replace(known, declared_sha256=known.declared_sha256 or sha256)
            piece = self._piece(known, writer, taken, checks)
            try:
                await piece.receive(body)
            finally:
                await piece.close()
            return piece.known.upload

    async def terminate(self, owner: UUID, upload_id: UUID, *, with_batch: bool = False) -> None:
        """Stop the upload's writer, and delete it as UploadService.delete does. Raises as `settle` does."""
        await self._ledger.get(owner, upload_id)
        async with self._writers.take(upload_id):
            await self._uploads.delete(owner, upload_id, with_batch=with_batch)

    async def concatenate(self, owner: UUID, upload_id: UUID, parts: Sequence[UUID]) -> Upload:
        """Fill a declared upload with the bytes of whole parts, in that order; the parts stay as they are.

        What an earlier call for the same parts made durable is not written again.

        Raises PartsUnfinishedError where one is not whole or no part, NotFoundError, and what `append` raises.
        """
        found = [await self._ledger.get(owner, part) for part in parts]
        for part in found:
            if not (part.partial and part.whole):
                detail = "Not every upload to be put together is a whole part."
                raise PartsUnfinishedError(detail, part=str(part.upload.id))
        size = sum(part.upload.received_bytes for part in found)
        offset = (await self.settle(owner, upload_id)).upload.received_bytes
        body = self._bytes_of(found, offset)
        return await self.append(owner, upload_id, offset=offset, body=body, length=size - offset, final_size=size)

    async def _bytes_of(self, parts: Sequence[Receiving], passed: int) -> AsyncIterator[bytes]:
        """Yield the bytes of the parts behind the first `passed`."""
        for part in parts:
            upload = part.upload
            first, passed = min(passed, upload.received_bytes), max(0, passed - upload.received_bytes)
            if first == upload.received_bytes:
                continue
            assert upload.object_id is not None
            reader = await asyncio.to_thread(self._store.open, upload.object_id)
            try:
                for start in range(first, upload.received_bytes, STEP_BYTES):
                    size = min(STEP_BYTES, upload.received_bytes - start)
                    yield await asyncio.to_thread(reader.read, start, size)
            finally:
                reader.close()

    def _check(self, known: Receiving, offset: int, length: int | None, final_size: int | None) -> None:
        check_open(known, now=self._clock())
        check_piece(known, offset=offset, length=length, final_size=final_size)
        size = final_size if final_size is not None else known.upload.size_bytes
        most = max(size or 0, offset + (length or 0))
        if most > self._limits.max_file_bytes:
            limit = self._limits.max_file_bytes
            raise FileTooLargeError(f"The file is over {limit} bytes.", max_file_bytes=limit)

    async def _take_bytes(
        self, known: Receiving, writer: Writer, check: Callable[[Receiving], None]
    ) -> tuple[Receiving, ObjectWriter | None]:
        """Return the upload as it is now, and its bytes locked, if it has some and is not whole.

        Only behind their lock its row is what nobody else moves. Raises what `check` says of it, UploadLockedError.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + TAKEOVER_SECONDS
        owner, upload_id = known.upload.user_id, known.upload.id
        asked = False
        while True:
            object_id, at = known.upload.object_id, known.upload.received_bytes
            taken = None
            if object_id and not known.whole:
                taken = await self._reopen(object_id, at)
                if taken is None and not asked:
                    await self._ledger.ask(upload_id, self._new_id())
                    asked = True
            elif not writer.waited:
                return known, None
            done = False
            try:
                known = await self._ledger.get(owner, upload_id)
                check(known)
                held = known.upload.object_id is None or taken is not None
                done = known.whole or (
                    held and (known.upload.object_id, known.upload.received_bytes) == (object_id, at)
                )
            finally:
                if taken and (known.whole or not done):
                    await asyncio.to_thread(taken.close)
                    taken = None
            if done:
                return known, taken
            if writer.stopped.is_set() or loop.time() > give_up:
                raise UploadLockedError
            await asyncio.sleep(_RETRY_SECONDS if asked else 0)

    async def _reopen(self, object_id: UUID, at: int) -> ObjectWriter | None:
        """Take the lock of an object; where this is cancelled, let go of it if it was taken all the same."""
        reopening = asyncio.ensure_future(asyncio.to_thread(self._store.reopen, object_id, at=at))
        try:
            return await asyncio.shield(reopening)
        except asyncio.CancelledError:
            await asyncio.wait([reopening])
            if not reopening.exception() and (taken := reopening.result()):
                taken.close()
            raise

    def _piece(self, known: Receiving, writer: Writer, taken: ObjectWriter | None, checks: Sequence[Check]) -> Piece:
        upload = known.upload
        small = (
            upload.size_bytes is not None
            and upload.size_bytes <= self._limits.pack_file_bytes
            and upload.batch_id is not None
            and taken is None
        )
        return Piece(
            known,
            writer,
            taken,
            store=self._store,
            ledger=self._ledger,
            group=self._group,
            small=small,
            digests=self._digests,
            threads=self._threads,
            budget=self._budget,
            limits=self._limits,
            new_id=self._new_id,
            checks=checks,
        )


async def _expect_nothing(body: AsyncIterator[bytes], known: Receiving) -> None:
    """Read a piece for an upload that is whole, which may be an empty one. Raises SizeExceededError."""
    async for chunk in body:
        if chunk:
            raise too_much(known.upload.received_bytes)
