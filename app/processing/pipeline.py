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
from app.domain.errors import AttemptsExhaustedError, BoatloadError, ProcessorCrashedError
from app.domain.ids import Clock
from app.domain.upload import Refusal, Upload, UploadStatus
from app.processing.sandbox import Sandbox, SandboxError
from app.repositories.unit_of_work import unit_of_work
from app.repositories.uploads import Claimed, Finished

log: Final = structlog.get_logger("boatload.processing")

_ENDED: Final = {
    UploadStatus.COMPLETED: Tally(processing=-1, successful=1),
    UploadStatus.FAILED: Tally(processing=-1, failed=1),
}


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
            finished, released = await self._work([claim.upload for claim in claimed])
            await self._finish(finished, released)

    async def _claim(self, upload_ids: Sequence[UUID]) -> list[Claimed]:
        async with unit_of_work(self._database) as uow:
            batches = await uow.batches.lock(await uow.uploads.batches_of(upload_ids))
            versions = {batch.id: batch.version + 1 for batch in batches.values()}
            claimed = await uow.uploads.claim(upload_ids, lease=self._lease, versions=versions, now=self._clock())
            fresh = [claim.status_before is UploadStatus.PENDING for claim in claimed]
            changes = [
                (claim.upload.batch_id, Tally(pending=-int(one), processing=int(one)))
                for claim, one in zip(claimed, fresh, strict=True)
            ]
            await uow.batches.save(self._advance(batches, changes))
        return claimed

    async def _work(self, uploads: Sequence[Upload]) -> tuple[list[Finished], list[Upload]]:
        """Return how the attempts ended, and the uploads whose bytes were out of reach, which is no fault of theirs."""
        spent = [upload for upload in uploads if upload.attempts > self._max_attempts]
        exhausted = AttemptsExhaustedError(f"Processing was begun {self._max_attempts} times and never ended.")
        finished = [Finished(upload, None, Refusal.of(exhausted)) for upload in spent]
        released = []
        fresh = [upload for upload in uploads if upload.attempts <= self._max_attempts]
        for upload, found in zip(fresh, await self._detect(fresh), strict=True):
            if found is None:
                log.warning("bytes out of reach", upload_id=str(upload.id), attempt=upload.attempts)
                released.append(upload)
            elif isinstance(found, BoatloadError):
                log.warning("processing failed", upload_id=str(upload.id), attempt=upload.attempts, code=found.code)
                finished.append(Finished(upload, None, Refusal.of(found)))
            else:
                finished.append(Finished(upload, found, None))
        return finished, released

    async def _detect(self, uploads: Sequence[Upload], *, again: bool = True) -> list[str | BoatloadError | None]:
        """Return the type of each; where the child dies of one of several, halve them until it is found.

        Nobody is blamed for one death, which may have come from outside: who was alone when it happened `again`.
        """
        if not uploads:
            return []
        try:
            return list(await self._sandbox.detect_types(uploads))
        except SandboxError as error:
            log.warning("sandbox lost", uploads=len(uploads), reason=str(error))
        if len(uploads) == 1:
            if again:
                return await self._detect(uploads, again=False)
            return [ProcessorCrashedError("The process that looked into the file crashed or hung, twice.")]
        half = len(uploads) // 2
        return [*await self._detect(uploads[:half], again=False), *await self._detect(uploads[half:], again=False)]

    async def _finish(self, finished: Sequence[Finished], released: Sequence[Upload]) -> None:
        now = self._clock()
        async with unit_of_work(self._database) as uow:
            uploads = [*(end.upload for end in finished), *released]
            batches = await uow.batches.lock({upload.batch_id for upload in uploads if upload.batch_id})
            versions = {batch.id: batch.version + 1 for batch in batches.values()}
            ended = await uow.uploads.finish(finished, versions=versions, now=now)
            changes = [(batch_id, _ENDED[status]) for batch_id, status in ended]
            given_back = await uow.uploads.release(released, versions=versions, now=now)
            changes += [(batch_id, Tally(processing=-1, pending=1)) for batch_id in given_back]
            await uow.batches.save(self._advance(batches, changes))
        if len(changes) < len(uploads):
            log.info("attempts overtaken", ended=len(uploads), kept=len(changes))

    def _advance(self, batches: dict[UUID, Batch], changes: Sequence[tuple[UUID | None, Tally]]) -> list[Batch]:
        deltas: dict[UUID, Tally] = {}
        for batch_id, one in changes:
            if batch_id:
                deltas[batch_id] = one + deltas.get(batch_id, Tally())
        now = self._clock()
        return [advance(batches[batch_id], delta, now=now) for batch_id, delta in deltas.items()]
