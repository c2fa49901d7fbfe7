"""One piece of an upload: its bytes written, hashed and synced as they come, the row behind them, and an end."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Final

from app.domain.errors import (
    BoatloadError,
    DatabaseUnavailableError,
    DigestMismatchError,
    FileTooLargeError,
    StorageFullError,
    StorageUnavailableError,
    UploadLockedError,
)
from app.domain.ids import Ids
from app.domain.limits import STEP_BYTES, Limits
from app.domain.receiving import Check, Receiving, too_much
from app.domain.request_errors import BrokenOffError
from app.ingest.arrival import Arrival
from app.ingest.budget import Budget
from app.ingest.group import GroupCommit
from app.ingest.intake import Intake
from app.ingest.ledger import Ledger
from app.ingest.pump import Pump
from app.ingest.running_digests import RunningDigest, RunningDigests
from app.ingest.submission import Submission
from app.ingest.writers import Writer
from app.storage.base import ObjectWriter, Store
from app.uninterrupted import to_its_end

SYNC_BYTES: Final = 8 * STEP_BYTES
"""So many bytes are synced at one go."""
SYNC_SECONDS: Final = 5.0
"""What comes slowly is synced after this time."""
ROW_SECONDS: Final = 1.0
"""The row follows the syncs at most this often, and at the end."""
_FIRST_BYTES: Final = STEP_BYTES // 4
"""So much is written at once where the disk has nothing to do."""
_CATCH_UP_BYTES: Final = 32 * STEP_BYTES


class Piece:
    """The course of one `append`, with the right to write the upload, and its bytes `taken` where there are some.

    One task at a time. Whoever made it closes it, and with it what was taken.

    A `small` file whose bytes come at one go is not written here: it goes the way of all small files.
    """

    def __init__(
        self,
        known: Receiving,
        writer: Writer,
        taken: ObjectWriter | None,
        *,
        store: Store,
        ledger: Ledger,
        group: GroupCommit,
        small: bool,
        digests: RunningDigests,
        threads: Executor,
        budget: Budget,
        limits: Limits,
        new_id: Ids,
        checks: Sequence[Check],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.known = known
        self._writer: Final = writer
        self._store: Final = store
        self._ledger: Final = ledger
        self._group: Final = group
        self._small: Final = small
        self._digests: Final = digests
        self._threads: Final = threads
        self._budget: Final = budget
        self._limits: Final = limits
        self._new_id: Final = new_id
        self._checks: Final = checks
        self._monotonic: Final = monotonic
        self._offset: Final = known.upload.received_bytes
        self._object = taken
        self._digest: RunningDigest = digests.take(known.upload.object_id, self._offset)
        self._digest_before: Final = self._digest.copy()
        self._pump: Final = Pump(self._work, budget)
        self._catching_up: asyncio.Task[None] | None = None
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._unsynced = 0
        self._synced_at = self._recorded_at = monotonic()
        self._named = known.upload.object_id is not None

    async def receive(self, body: AsyncIterator[bytes]) -> None:
        """Write `body` to its end, or until it breaks off or the writer is stopped.

        Raises what `body` raised, SizeExceededError, UploadLockedError where it was stopped, ChecksumMismatchError,
        DigestMismatchError, and what the store and the ledger raise. Whatever it raises, what is durable stays and the
        row says so, but for bytes past the size and pieces that fail a check.
        """
        await self._begin_to_catch_up()
        try:
            await self._read(body)
        except (StorageFullError, StorageUnavailableError):
            raise
        except BoatloadError as error:
            # Too much, stopped, or broken off. Only too much is not kept.
            if isinstance(error, UploadLockedError | BrokenOffError):
                await to_its_end(self._keep())
            raise
        except BaseException:
            await to_its_end(self._keep())
            raise
        await to_its_end(self._finish())

    async def close(self) -> None:
        """Let go of the bytes; those that no row needs are removed. Nothing is in memory afterwards."""
        await to_its_end(self._close())

    async def _close(self) -> None:
        if self._catching_up:
            self._catching_up.cancel()
            await asyncio.wait([self._catching_up])
            if not self._catching_up.cancelled():
                self._catching_up.exception()  # whoever needed it has asked
        self._budget.give(self._pending_bytes)
        self._pending, self._pending_bytes = [], 0
        await self._pump.end()
        if self._object is None:
            return
        await asyncio.to_thread(self._object.close if self._named else self._object.discard)
        if self._named and not self.known.upload.sha256:
            ahead = self._digest.position > self.known.upload.received_bytes
            self._digests.keep(self._object.object_id, self._digest_before if ahead else self._digest)

    @property
    def _written(self) -> int:
        """Bytes of the upload that are written, synced or not; good once the pump is drained."""
        return self._object.size_bytes if self._object else self._offset

    async def _begin_to_catch_up(self) -> None:
        """Read again what the digest lacks: at once where that is little, else beside what comes."""
        object_id = self.known.upload.object_id
        if object_id is None or self._digest.position == self._offset:
            return
        catching_up = self._digests.catch_up(self._digest, object_id, self._offset)
        self._catching_up = asyncio.create_task(catching_up)
        if self._offset - self._digest.position <= _CATCH_UP_BYTES:
            await asyncio.shield(self._catching_up)

    async def _read(self, body: AsyncIterator[bytes]) -> None:
        size = self.known.upload.size_bytes
        limit = self._limits.max_file_bytes
        most = (limit if size is None else size) - self._offset
        error = (
            FileTooLargeError(f"The file is over {limit} bytes.", max_file_bytes=limit)
            if size is None
            else too_much(size)
        )
        stopped = asyncio.create_task(self._writer.stopped.wait())
        try:
            chunks_of = _bounded(body, most, error)
            async with Intake(chunks_of, budget=self._budget, max_bytes=1 << 62, can_wait=self._can_wait) as intake:
                try:
                    while (chunks := await self._step(intake, stopped)) is not None:
                        self._gather(chunks)
                        enough = STEP_BYTES if self._pump.busy else _FIRST_BYTES
                        if (self._pending_bytes >= enough and not self._small) or not chunks:
                            await to_its_end(self._write())
                        if self._sync_is_due:
                            await to_its_end(self._sync_in_time())
                except BaseException:
                    self._gather(intake.rest())
                    raise
        finally:
            stopped.cancel()

    def _can_wait(self, _: bytes) -> bool:
        """Say whether what came slowly is not to be synced yet."""
        return not self._is_late

    async def _step(self, intake: Intake, stopped: "asyncio.Task[bool]") -> list[bytes] | None:
        """Return the next step. Raises UploadLockedError where the writer is stopped before it comes."""
        step = asyncio.create_task(intake.step())
        try:
            await asyncio.wait({step, stopped}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if not await _ended(step) and step.exception() is None:
                self._gather(step.result() or [])
            raise
        if await _ended(step):
            raise UploadLockedError
        return step.result()

    def _gather(self, chunks: list[bytes]) -> None:
        self._pending += chunks
        self._pending_bytes += sum(map(len, chunks))

    async def _write(self) -> None:
        """Have what is pending written and hashed. Raises StorageFullError or StorageUnavailableError, now or later."""
        if not self._pending:
            return
        if self._object is None:
            self._object = await asyncio.to_thread(self._store.create, self._new_id(), big=True)
        await self._pump.give(self._pending)
        self._unsynced += self._pending_bytes
        self._pending, self._pending_bytes = [], 0

    def _work(self, pieces: Sequence[bytes]) -> None:
        assert self._object is not None
        in_step = self._digest.position == self._object.size_bytes
        hashing = self._threads.submit(self._hash, pieces, in_step=in_step)
        try:
            self._object.write(pieces)
        finally:
            hashing.result()

    def _hash(self, pieces: Sequence[bytes], *, in_step: bool) -> None:
        if in_step:
            self._digest.update(pieces)
        for check in self._checks:
            for piece in pieces:
                check.update(piece)

    @property
    def _is_late(self) -> bool:
        return self._monotonic() - self._synced_at >= SYNC_SECONDS

    @property
    def _sync_is_due(self) -> bool:
        return self._unsynced >= SYNC_BYTES or bool(self._is_late and (self._unsynced or self._pending))

    async def _sync_in_time(self) -> None:
        """Sync, and have the row follow now and then; a piece with a check is not the upload's before its end."""
        if self._is_late:
            await self._write()
        await self._sync()
        whole = self._written == self.known.upload.size_bytes
        if not self._checks and not whole and self._synced_at - self._recorded_at >= ROW_SECONDS:
            await self._record()

    async def _sync(self) -> None:
        assert self._object is not None
        await self._pump.drain()
        await asyncio.to_thread(self._object.sync)
        self._unsynced = 0
        self._synced_at = self._monotonic()

    async def _record(self) -> None:
        assert self._object is not None
        with self._naming():
            self.known = await self._ledger.record(self.known, self._object.object_id, self._written)
        self._recorded_at = self._monotonic()

    async def _keep(self) -> None:
        """Make durable what has come of a piece that broke off; where all has come, it is whole."""
        if self._checks:
            return
        with suppress(StorageFullError, StorageUnavailableError):
            await self._settle()

    async def _finish(self) -> None:
        """End a piece that came to its end."""
        if self._checks:
            await self._write()
            await self._pump.drain()
        for check in self._checks:
            await asyncio.to_thread(check.verify)
        await self._settle()

    async def _settle(self) -> None:
        upload = self.known.upload
        if self._small and self._object is None and self._pending_bytes == upload.size_bytes:
            await self._submit()
            return
        await self._write()
        await self._pump.drain()
        if self._written == upload.size_bytes:
            await self._complete()
        elif self._written > upload.received_bytes:
            await self._sync()
            await self._record()

    async def _complete(self) -> None:
        if self._object is None:  # a file of no bytes
            self._object = await asyncio.to_thread(self._store.create, self._new_id(), big=True)
        await self._sync()
        size = self._written
        if self.known.partial:
            await self._record()
            return
        if self._catching_up:
            await asyncio.shield(self._catching_up)
        await self._digests.catch_up(self._digest, self._object.object_id, size)
        sha256 = self._digest.digest()
        await self._check_digest(sha256)
        with self._naming():
            self.known, self._named = await self._ledger.complete(self.known, self._object.object_id, size, sha256)

    async def _check_digest(self, sha256: bytes) -> None:
        """Let the upload fail where its bytes are not those that were declared, once or with this call."""
        if self.known.declared_sha256 not in {None, sha256}:
            error = DigestMismatchError()
            self.known = await self._ledger.refuse(self.known, error)
            self._named = False
            raise error

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Have a row name the object. Whether it does is not known where the database goes away meanwhile."""
        before, self._named = self._named, True
        try:
            yield
        except DatabaseUnavailableError:
            raise
        except BoatloadError:
            self._named = before
            raise

    async def _submit(self) -> None:
        """Have a small file that came whole committed with whatever else waits, and put into the pack."""
        upload = self.known.upload
        pieces, size = self._pending, self._pending_bytes
        sha256 = await asyncio.to_thread(_sha256, pieces)
        await self._check_digest(sha256)
        arrival = Arrival(0, upload.filename, upload.content_type, None, size, sha256, pieces, fills=upload.id)
        assert upload.batch_id
        _, (kept,) = await self._group.submit(Submission(upload.user_id, upload.batch_id, [arrival]))
        self.known = replace(self.known, upload=kept)
        if kept.error:
            raise DigestMismatchError


async def _ended(step: "asyncio.Task[list[bytes] | None]") -> bool:
    """End a step that goes on, and say whether it has no result for that."""
    if not step.done():
        step.cancel()
        await asyncio.wait([step])
    return step.cancelled()


def _sha256(pieces: Sequence[bytes]) -> bytes:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


async def _bounded(body: AsyncIterator[bytes], most: int, error: BoatloadError) -> AsyncIterator[bytes]:
    """Pass on at most `most` bytes; raise `error` instead of more."""
    total = 0
    async for chunk in body:
        total += len(chunk)
        if total > most:
            raise error
        yield chunk
