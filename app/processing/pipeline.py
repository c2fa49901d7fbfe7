"""From a job's upload ids to final states: claim as a set, work off the event loop, finish as a set.

Every step may be repeated: a claim takes only what is pending or whose lease ran out, and a finish changes only the
attempt it belongs to. So a job that comes twice, or a worker that lost its lease, does no harm.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog

from app.db.pool import Database
from app.domain.batch import Batch, Tally, advance
from app.domain.errors import AttemptsExhaustedError, StorageFullError, StorageUnavailableError
from app.domain.ids import Clock
from app.domain.upload import Placed, Refusal, Upload, UploadStatus
from app.processing.outcome import Found, Outcome
from app.processing.sandbox import Sandbox
from app.processing.thumbnails import Thumbnails
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
        thumbnails: Thumbnails,
        *,
        lease: timedelta,
        max_attempts: int,
        clock: Clock,
        give_way: Callable[[], Awaitable[None]],
    ) -> None:
        self._database: Final = database
        self._sandbox: Final = sandbox
        self._thumbnails: Final = thumbnails
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
            fresh = [claim.status_before is UploadStatus.PENDING for claim in claimed]
            changes = [
                (claim.upload.batch_id, Tally(pending=-int(one), processing=int(one)))
                for claim, one in zip(claimed, fresh, strict=True)
            ]
            await uow.batches.save(self._advance(batches, changes))
        return claimed

    async def _work(self, uploads: Sequence[Upload]) -> list[Outcome]:
        """Return how the attempts ended. What may pass is tried once more at once."""
        spent = [upload for upload in uploads if upload.attempts > self._max_attempts]
        exhausted = AttemptsExhaustedError(f"Processing was begun {self._max_attempts} times and never ended.")
        outcomes = [Outcome(upload, error=Refusal.of(exhausted)) for upload in spent]
        fresh = [upload for upload in uploads if upload.attempts <= self._max_attempts]
        for again in (True, False):
            async with aclosing(self._sandbox.process(fresh)) as ends:
                ended = [outcome async for outcome in ends]
            outcomes += [outcome for outcome in ended if not (again and outcome.passing)]
            fresh = [outcome.upload for outcome in ended if again and outcome.passing]
        for outcome in outcomes:
            if outcome.error or outcome.blameless:
                code = outcome.error.code if outcome.error else "out of reach"
                log.warning(
                    "processing failed", upload_id=str(outcome.upload.id), attempt=outcome.upload.attempts, code=code
                )
        return outcomes

    async def _finish(self, outcomes: Sequence[Outcome]) -> None:
        """End the attempts; without a place for its thumbnail an upload is given back."""
        images = {
            outcome.upload.id: outcome.found.thumbnail
            for outcome in outcomes
            if outcome.error is None and outcome.found and outcome.found.thumbnail
        }
        try:
            async with self._thumbnails.placed(images) as places:
                await self._commit(outcomes, places)
        except (StorageFullError, StorageUnavailableError):
            lost = [Outcome(one.upload, blameless=True) if one.upload.id in images else one for one in outcomes]
            await self._commit(lost, {})

    async def _commit(self, outcomes: Sequence[Outcome], places: Mapping[UUID, Placed]) -> None:
        now = self._clock()
        finished = [_finished(one, places.get(one.upload.id)) for one in outcomes if not one.blameless]
        released = [outcome.upload for outcome in outcomes if outcome.blameless]
        async with unit_of_work(self._database) as uow:
            batches = await uow.batches.lock({one.upload.batch_id for one in outcomes if one.upload.batch_id})
            versions = {batch.id: batch.version + 1 for batch in batches.values()}
            await uow.objects.record(_ends(places.values()))
            ended = await uow.uploads.finish(finished, versions=versions, now=now)
            changes = [(batch_id, _ENDED[status]) for batch_id, status in ended]
            given_back = await uow.uploads.release(released, versions=versions, now=now)
            changes += [(batch_id, Tally(processing=-1, pending=1)) for batch_id in given_back]
            await uow.batches.save(self._advance(batches, changes))
        if len(changes) < len(outcomes):
            log.info("attempts overtaken", ended=len(outcomes), kept=len(changes))

    def _advance(self, batches: dict[UUID, Batch], changes: Sequence[tuple[UUID | None, Tally]]) -> list[Batch]:
        deltas: dict[UUID, Tally] = {}
        for batch_id, one in changes:
            if batch_id:
                deltas[batch_id] = one + deltas.get(batch_id, Tally())
        now = self._clock()
        return [advance(batches[batch_id], delta, now=now) for batch_id, delta in deltas.items()]


def _finished(outcome: Outcome, thumbnail: Placed | None) -> Finished:
    found = outcome.found or Found()
    return Finished(
        outcome.upload,
        found.detected_type,
        outcome.error,
        width=found.width,
        height=found.height,
        metadata=found.metadata,
        thumbnail=thumbnail,
    )


def _ends(places: Iterable[Placed]) -> list[tuple[UUID, int]]:
    """Return how far each pack is durable."""
    ends: dict[UUID, int] = {}
    for place in places:
        ends[place.object_id] = max(place.offset + place.size_bytes, ends.get(place.object_id, 0))
    return list(ends.items())
