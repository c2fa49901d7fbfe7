"""From a job's upload ids to final states: claim as a set, work off the event loop, finish as a set.

Every step may be repeated: a claim takes only what is pending or whose lease ran out, and a finish changes only the
attempt it belongs to. So a job that comes twice, or a worker that lost its lease, does no harm.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog

from app.db.pool import Database
from app.domain.batch import Batch, Tally, advance
from app.domain.errors import AttemptsExhaustedError, BoatloadError, StorageUnavailableError
from app.domain.ids import Clock
from app.domain.upload import Refusal, Upload, UploadStatus
from app.processing.inspect import HEAD_BYTES, detect_type
from app.repositories.unit_of_work import unit_of_work
from app.repositories.uploads import Claimed, Finished
from app.storage.base import ObjectReader, Store

log: Final = structlog.get_logger("boatload.processing")


class Pipeline:
    """Processes uploads. One per process."""

    def __init__(self, database: Database, store: Store, *, lease: timedelta, max_attempts: int, clock: Clock) -> None:
        self._database: Final = database
        self._store: Final = store
        self._lease: Final = lease
        self._max_attempts: Final = max_attempts
        self._clock: Final = clock

    async def process(self, upload_ids: Sequence[UUID]) -> None:
        """Bring those of the uploads that need it to a final state.

        Raises DatabaseUnavailableError; what was claimed then comes back when its lease runs out.
        """
        claimed = await self._claim(upload_ids)
        if claimed:
            finished = await asyncio.to_thread(self._work, [claim.upload for claim in claimed])
            await self._finish(finished)

    async def _claim(self, upload_ids: Sequence[UUID]) -> list[Claimed]:
        async with unit_of_work(self._database) as uow:
            batches = await uow.batches.lock(await uow.uploads.batches_of(upload_ids))
            versions = {batch.id: batch.version + 1 for batch in batches.values()}
            claimed = await uow.uploads.claim(upload_ids, lease=self._lease, versions=versions, now=self._clock())
            deltas: dict[UUID, Tally] = {}
            for claim in claimed:
                if claim.upload.batch_id:
                    fresh = int(claim.status_before is UploadStatus.PENDING)
                    one = Tally(pending=-fresh, processing=fresh)
                    deltas[claim.upload.batch_id] = one + deltas.get(claim.upload.batch_id, Tally())
            await uow.batches.save(self._advance(batches, deltas))
        return claimed

    async def _finish(self, finished: Sequence[Finished]) -> None:
        async with unit_of_work(self._database) as uow:
            batches = await uow.batches.lock({end.upload.batch_id for end in finished if end.upload.batch_id})
            versions = {batch.id: batch.version + 1 for batch in batches.values()}
            ended = await uow.uploads.finish(finished, versions=versions, now=self._clock())
            deltas: dict[UUID, Tally] = {}
            for batch_id, status in ended:
                if batch_id:
                    good = status is UploadStatus.COMPLETED
                    one = Tally(processing=-1, successful=int(good), failed=int(not good))
                    deltas[batch_id] = one + deltas.get(batch_id, Tally())
            await uow.batches.save(self._advance(batches, deltas))
        if len(ended) < len(finished):
            log.info("attempts overtaken", finished=len(finished), kept=len(ended))

    def _advance(self, batches: dict[UUID, Batch], deltas: dict[UUID, Tally]) -> list[Batch]:
        now = self._clock()
        return [advance(batches[batch_id], delta, now=now) for batch_id, delta in deltas.items()]

    def _work(self, uploads: Sequence[Upload]) -> list[Finished]:
        """Process each upload. Blocks; never raises for what a file holds."""
        readers: dict[UUID, ObjectReader] = {}
        try:
            ends = [self._end(upload, readers) for upload in uploads]
            return [end for end in ends if end]
        finally:
            for reader in readers.values():
                reader.close()

    def _end(self, upload: Upload, readers: dict[UUID, ObjectReader]) -> Finished | None:
        """Return how the attempt ended; None where it is to be made again, once its lease has run out."""
        try:
            if upload.attempts > self._max_attempts:
                raise AttemptsExhaustedError(f"Processing was begun {self._max_attempts} times and never ended.")
            return Finished(upload, self._inspect(upload, readers), None)
        except StorageUnavailableError:
            log.warning("bytes out of reach", upload_id=str(upload.id), attempt=upload.attempts)
            return None
        except BoatloadError as error:
            log.warning("processing failed", upload_id=str(upload.id), attempt=upload.attempts, code=error.code)
            return Finished(upload, None, Refusal.of(error))

    def _inspect(self, upload: Upload, readers: dict[UUID, ObjectReader]) -> str:
        assert upload.object_id is not None
        assert upload.object_offset is not None
        reader = readers.get(upload.object_id)
        if reader is None:
            reader = readers[upload.object_id] = self._store.open(upload.object_id)
        return detect_type(reader.read(upload.object_offset, min(upload.received_bytes, HEAD_BYTES)))
