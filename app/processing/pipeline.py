"""From a job's upload ids to final states: claim as a set, work off the event loop, finish as a set.

Every step may be repeated: a claim takes only what is pending or whose lease ran out, and a finish changes only the
attempt it belongs to. So a job that comes twice, or a worker that lost its lease, does no harm.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog

from app.db.pool import Database
from app.domain.batch import Batch, Tally, advance
from app.domain.errors import AttemptsExhaustedError
from app.domain.ids import Clock
from app.domain.upload import Refusal, Upload, UploadStatus
from app.processing.sandbox import Sandbox, SandboxError
from app.repositories.unit_of_work import unit_of_work
from app.repositories.uploads import Claimed, Finished

log: Final = structlog.get_logger("boatload.processing")


class Pipeline:
    """Processes uploads. One per process.

    `give_way` returns when those who are sending files right now do not mind: both sides lock the same batches.
    """

    def __init__(
        self,
        database: Database,
        sandbox: Sandbox,
        *,
        lease: timedelta,
        max_attempts: int,
        clock: Clock,
        give_way: Callable[[], Awaitable[None]],
    ) -> None:
        self._database: Final = database
        self._sandbox: Final = sandbox
        self._lease: Final = lease
        self._max_attempts: Final = max_attempts
        self._clock: Final = clock
        self._give_way: Final = give_way

    async def process(self, upload_ids: Sequence[UUID]) -> None:
        """Bring those of the uploads that need it to a final state.

        Raises DatabaseUnavailableError; what was claimed then comes back when its lease runs out.
        """
        await self._give_way()
        claimed = await self._claim(upload_ids)
        if claimed:
            await self._finish(await self._work([claim.upload for claim in claimed]))

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

    async def _work(self, uploads: Sequence[Upload]) -> list[Finished]:
        """Return how the attempts ended; one that is left out is to be made again, once its lease has run out."""
        spent = [upload for upload in uploads if upload.attempts > self._max_attempts]
        exhausted = AttemptsExhaustedError(f"Processing was begun {self._max_attempts} times and never ended.")
        finished = [Finished(upload, None, Refusal.of(exhausted)) for upload in spent]
        fresh = [upload for upload in uploads if upload.attempts <= self._max_attempts]
        try:
            types = await self._sandbox.detect_types(fresh) if fresh else []
        except SandboxError as error:
            log.warning("sandbox lost", uploads=len(fresh), reason=str(error))
            types = [None] * len(fresh)
        for upload, detected_type in zip(fresh, types, strict=True):
            if detected_type is None:
                log.warning("to be tried again", upload_id=str(upload.id), attempt=upload.attempts)
            else:
                finished.append(Finished(upload, detected_type, None))
        return finished
