"""What the rows say of uploads in progress: moved on, whole, refused. Each step is one transaction.

Every step names the state that it goes on from. Where the row says otherwise, because another writer, another door or
an owner was there first, nothing is changed.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import UUID

from app.db.pool import Database
from app.domain.batch import advance, reopen, tally
from app.domain.errors import BoatloadError, NotFoundError, UploadLockedError
from app.domain.ids import Clock
from app.domain.receiving import Place, Receiving, accepted, check_open, check_piece, moved, refused
from app.domain.upload import Refusal, Upload, UploadStatus
from app.jobs import queue
from app.repositories.unit_of_work import reading, unit_of_work

_Change = Callable[[Upload, int, datetime], Upload]
"""The upload as it was, the batch's coming version and the time: the upload as it is to be."""


class Ledger:
    """All methods may raise DatabaseUnavailableError, after which it is unknown whether they took effect."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database: Final = database
        self._clock: Final = clock

    async def get(self, owner: UUID, upload_id: UUID) -> Receiving:
        """Return the owner's upload. Raises NotFoundError."""
        async with reading(self._database) as uow:
            found = await uow.receiving.find(upload_id, owner)
        if found is None:
            raise NotFoundError
        return found

    async def ask(self, upload_id: UUID, takeover: UUID) -> None:
        """Leave word for the upload's writer in another process."""
        async with reading(self._database) as uow:
            await uow.receiving.ask(upload_id, takeover)

    async def begin(self, known: Receiving, *, final_size: int | None) -> Receiving:
        """Return the upload `receiving` and of that size, where it failed or had none before."""
        upload = known.upload
        same_size = final_size is None or final_size == upload.size_bytes
        if upload.status is UploadStatus.RECEIVING and same_size:
            return known

        def change(before: Upload, version: int, now: datetime) -> Upload:
            received = before.received_bytes if before.status is UploadStatus.RECEIVING else 0
            after = moved(before, received, before.object_id, version=version, now=now)
            return after if final_size is None else after._replace(size_bytes=final_size)

        return await self._must(known, change)

    async def record(self, known: Receiving, object_id: UUID, received: int) -> Receiving:
        """Say that so many bytes of the upload are durable in that object."""

        def change(before: Upload, version: int, now: datetime) -> Upload:
            return moved(before, received, object_id, version=version, now=now)

        if known.upload.size_bytes is not None:
            now = self._clock()
            async with reading(self._database) as uow:
                version = await uow.receiving.move(known.upload, received, object_id, now=now)
            if version is not None:
                return replace(known, upload=moved(known.upload, received, object_id, version=version, now=now))
        return await self._must(known, change, (object_id, received))

    async def complete(self, known: Receiving, object_id: UUID, size: int, sha256: bytes) -> tuple[Receiving, bool]:
        """Say that the upload is whole in that object, and have it processed; return whether it needs the object.

        It does not where its owner has the same bytes in the store already.
        """
        async with reading(self._database) as uow:
            held = (await uow.receiving.held(known.upload.user_id, [(sha256, size)])).get(0)

        def to(place: Place) -> _Change:
            return lambda before, version, now: accepted(before, size, sha256, place, version=version, now=now)

        if held and (after := await self._change(known, to(held), holds=held[0])):
            return after, False
        after = await self._change(known, to((object_id, 0)), records=(object_id, size))
        assert after is not None
        return after, True

    async def refuse(self, known: Receiving, error: BoatloadError) -> Receiving:
        """Say that the upload failed, and let go of its bytes."""

        def change(before: Upload, version: int, now: datetime) -> Upload:
            return refused(before, Refusal.of(error), version=version, now=now)

        return await self._must(known, change)

    async def _must(self, known: Receiving, change: _Change, records: tuple[UUID, int] | None = None) -> Receiving:
        after = await self._change(known, change, records=records)
        assert after is not None
        return after

    async def _change(
        self,
        known: Receiving,
        change: _Change,
        *,
        records: tuple[UUID, int] | None = None,
        holds: UUID | None = None,
    ) -> Receiving | None:
        """Change a row that is as `known`; None, and nothing changed, where the object that it is to hold is gone.

        `records`: an object and its durable bytes. Raises what `check_open` and `check_piece` say of the row as it is,
        and UploadLockedError where another writer was at the same place.
        """
        batch_id = known.upload.batch_id
        async with unit_of_work(self._database) as uow:
            batches = await uow.batches.lock([batch_id]) if batch_id else {}
            if holds and not await uow.objects.hold([holds]):
                return None
            before = next(iter(await uow.receiving.lock([known.upload.id])), None)
            if before is None:
                raise NotFoundError
            batch = batches.get(batch_id) if batch_id else None
            before = replace(before, batch_status=batch.status if batch else None)
            now = self._clock()
            if not _unmoved(before.upload, known.upload):
                check_open(before, now=now)
                check_piece(before, offset=known.upload.received_bytes, length=1, final_size=None)
                raise UploadLockedError
            after = change(before.upload, batch.version + 1 if batch else before.upload.batch_version + 1, now)
            if records:
                await uow.objects.record([records])
            await uow.receiving.write([after])
            if batch:
                await uow.batches.save([advance(reopen(batch), tally([after]) + -tally([before.upload]), now=now)])
            if after.status is UploadStatus.PENDING:
                await queue.enqueue(uow.connection, [after.id])
        return replace(before, upload=after, declared_sha256=known.declared_sha256)


def _unmoved(row: Upload, known: Upload) -> bool:
    """Say whether nobody else was at the upload."""
    fields = (row.status, row.received_bytes, row.size_bytes, row.object_id, row.sha256, row.batch_id)
    return fields == (
        known.status,
        known.received_bytes,
        known.size_bytes,
        known.object_id,
        known.sha256,
        known.batch_id,
    )
