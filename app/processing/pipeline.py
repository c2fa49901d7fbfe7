"""From a job's upload ids to what is next for each: claim as a set, work off the event loop, finish in groups.

Every step may be repeated: a claim takes only what is due or whose lease ran out, and a finish changes only the attempt
it belongs to. So a job that comes twice, or a worker that lost its lease, does no harm.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, cast
from uuid import UUID

import structlog

from app.db.pool import Database
from app.domain.batch import Batch, Tally, advance
from app.domain.errors import DatabaseUnavailableError, StorageFullError, StorageUnavailableError
from app.domain.ids import Clock
from app.domain.processing_errors import AttemptsExhaustedError, ProcessorFailedError, WorkerLostError
from app.domain.retry import RetryPolicy
from app.domain.upload import Placed, Refusal, Upload, UploadStatus
from app.jobs import queue
from app.processing.hand import Hand
from app.processing.outcome import Found, Outcome, Workshop
from app.processing.thumbnails import Thumbnails, ends_of
from app.repositories.unit_of_work import unit_of_work
from app.repositories.work import Claimed, Finished, Released, Work

log: Final = structlog.get_logger("boatload.processing")

GROUP_UPLOADS: Final = 1000
"""Most uploads that end in one transaction, so that none holds a batch for long."""
GROUP_BYTES: Final = 8 << 20
"""Most bytes of thumbnails that are stored at once."""
_AGAIN_SECONDS: Final = 0.5
"""How long to wait with what the database did not take."""
_GIVE_BACK_SECONDS: Final = 5
_LOST: Final = Refusal.of(WorkerLostError())
_TAKEN: Final = {
    (UploadStatus.PENDING, UploadStatus.PROCESSING): Tally(pending=-1, processing=1),
    (UploadStatus.PROCESSING, UploadStatus.PROCESSING): Tally(),
    (UploadStatus.PROCESSING, UploadStatus.FAILED): Tally(processing=-1, failed=1),
}
_ENDED: Final = {
    UploadStatus.COMPLETED: Tally(processing=-1, successful=1),
    UploadStatus.FAILED: Tally(processing=-1, failed=1),
}
_RELEASED: Final = Tally(processing=-1, pending=1)


@dataclass(frozen=True, slots=True)
class _End:
    """What is to be committed of an attempt."""

    hand: Hand
    upload: Upload
    what: Finished | Released
    thumbnail: bytes | None = None
    """Not stored yet."""


class Pipeline:
    """Processes uploads. One per process; `run` must be running.

    `give_way` returns when those who are sending files right now do not mind: both sides lock the same batches.
    `chance` returns numbers from [0, 1); `worker` says who this is, in the history and in the log.
    """

    def __init__(
        self,
        database: Database,
        workshop: Workshop,
        thumbnails: Thumbnails,
        *,
        lease: timedelta,
        retry: RetryPolicy,
        clock: Clock,
        chance: Callable[[], float],
        worker: str,
        give_way: Callable[[], Awaitable[None]],
    ) -> None:
        self._database: Final = database
        self._workshop: Final = workshop
        self._thumbnails: Final = thumbnails
        self._lease: Final = lease
        self._retry: Final = retry
        self._clock: Final = clock
        self._chance: Final = chance
        self._worker: Final = worker
        self._give_way: Final = give_way
        self._log: Final = log.bind(worker=worker)
        detail = f"Processing was begun {retry.max_attempts} times and never ended."
        self._exhausted: Final = Refusal.of(AttemptsExhaustedError(detail))
        self._hands: Final[set[Hand]] = set()
        self._idle: Final = asyncio.Event()
        self._ends: Final[list[_End]] = []
        self._wake: Final = asyncio.Event()
        self._closing = False
        self._stopped: Final = asyncio.Event()

    async def process(self, upload_ids: Sequence[UUID]) -> None:
        """Claim those of the uploads that need it, and return once what became of each is committed.

        Not after `close`. Raises DatabaseUnavailableError where nothing could be claimed. Whoever cancels it leaves
        what was claimed to its lease.
        """
        assert not self._closing
        hand = Hand()
        self._hands.add(hand)
        self._idle.clear()
        try:
            await self._give_way()
            for claim in await self._claim(upload_ids):
                if claim.upload.status is UploadStatus.PROCESSING:
                    hand.take(claim.upload, claim.counted)
            with suppress(DatabaseUnavailableError):  # no fault of what is in hand, which is given back
                while hand.working and not self._closing:
                    await self._work(hand)
            for upload in list(hand.working.values()):
                self._end(hand, Released(upload))
            await hand.all_committed()
        finally:
            self._hands.discard(hand)
            if not self._hands:
                self._idle.set()

    async def run(self) -> None:
        """Commit what has ended, and keep the leases of what has not, until `close` is through."""
        async with asyncio.TaskGroup() as both:
            renewing = both.create_task(self._renew_leases())
            while not self._stopped.is_set():
                await self._wake.wait()
                self._wake.clear()
                while self._ends:
                    await self._give_way()
                    await self._commit(self._take_group())
            renewing.cancel()

    def _take_group(self) -> list[_End]:
        """Take what has ended, as much of it as one transaction and one write of thumbnails may be about."""
        count = size = 0
        for end in self._ends[:GROUP_UPLOADS]:
            size += len(end.thumbnail or b"")
            if count and size > GROUP_BYTES:
                break
            count += 1
        group, self._ends[:count] = self._ends[:count], []
        return group

    async def close(self, seconds: float) -> None:
        """Wait so long for what was begun, then give the rest back at once, and end `run`."""
        await self._until_idle(seconds)
        self._closing = True
        rest = sum(len(hand.working) for hand in self._hands)
        if rest:
            self._log.info("giving back", uploads=rest)
        for hand in self._hands:
            hand.disturbed.set()
        await self._until_idle(_GIVE_BACK_SECONDS)
        self._stopped.set()
        self._wake.set()

    async def _until_idle(self, seconds: float) -> None:
        if self._hands:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), seconds)

    async def _claim(self, upload_ids: Sequence[UUID]) -> list[Claimed]:
        async with unit_of_work(self._database) as uow:
            batches = await uow.batches.lock(await uow.work.batches_of(upload_ids))
            claimed = await uow.work.claim(
                upload_ids,
                lease=self._lease,
                max_attempts=self._retry.max_attempts,
                lost=_LOST,
                exhausted=self._exhausted,
                versions=_next_versions(batches),
                now=self._clock(),
            )
            changes = [(claim.upload.batch_id, _TAKEN[claim.status_before, claim.upload.status]) for claim in claimed]
            await uow.batches.save(self._advance(batches, changes))
        if claimed:
            batch_ids = [str(batch_id) for batch_id in batches]
            self._log.debug("claimed", uploads=len(claimed), batch_ids=batch_ids)
        taken_over = [claim.upload for claim in claimed if claim.status_before is UploadStatus.PROCESSING]
        if taken_over:
            ids = [str(upload.id) for upload in taken_over]
            self._log.warning("taken over from a silent worker", uploads=len(ids), upload_ids=ids)
        return claimed

    async def _work(self, hand: Hand) -> None:
        """Have the workshop look at what is in hand, until all has ended or something of it is to be given up."""
        hand.disturbed.clear()
        looking = asyncio.ensure_future(self._look(hand))
        disturbed = asyncio.ensure_future(hand.disturbed.wait())
        try:
            await asyncio.wait([looking, disturbed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            disturbed.cancel()
            looking.cancel()
            await asyncio.wait([looking])
        if not looking.cancelled():
            looking.result()

    async def _look(self, hand: Hand) -> None:
        outcomes = cast("AsyncGenerator[Outcome]", self._workshop.process(list(hand.working.values())))
        async with aclosing(outcomes):
            async for outcome in outcomes:
                self._end(hand, self._next(outcome, hand), outcome.found.thumbnail if outcome.found else None)
        if hand.working and not hand.disturbed.is_set():
            raise RuntimeError(f"the workshop said nothing of {len(hand.working)} uploads")

    def _next(self, outcome: Outcome, hand: Hand) -> Finished | Released:
        """Say what becomes of an upload whose attempt has ended."""
        upload = outcome.upload
        counted = hand.counted[upload.id, upload.attempts]
        if outcome.blameless:
            delay = self._retry.delay(upload.attempts, self._chance())
            self._log.warning("bytes out of reach", **_facts(upload), retry_seconds=delay.total_seconds())
            return Released(upload, delay)
        found = outcome.found or Found()
        finished = Finished(upload, outcome.error, found.detected_type, found.width, found.height, found.metadata)
        if outcome.error is None:
            return finished
        code = outcome.error.code
        if outcome.passing and not self._retry.gives_up(counted):
            delay = self._retry.delay(counted, self._chance())
            self._log.warning("processing failed", **_facts(upload), code=code, retry_seconds=delay.total_seconds())
            return Released(upload, delay, outcome.error)
        self._log.warning("processing failed for good", **_facts(upload), code=code)
        return finished

    def _end(self, hand: Hand, end: Finished | Released, thumbnail: bytes | None = None) -> None:
        if hand.ended(end.upload):
            self._ends.append(_End(hand, end.upload, end, thumbnail))
            self._wake.set()

    async def _commit(self, group: Sequence[_End]) -> None:
        """Finish a group, in parts where the database refuses something of it; try for as long as it is lost."""
        while True:
            try:
                await self._finish(group)
            except DatabaseUnavailableError:
                if self._stopped.is_set():
                    break
                await asyncio.sleep(_AGAIN_SECONDS)
            except Exception:  # noqa: BLE001 - the loop must survive whatever one upload brings with it
                self._log.exception("finishing failed", uploads=len(group))
                if len(group) > 1:
                    await self._commit(group[: len(group) // 2])
                    await self._commit(group[len(group) // 2 :])
                elif group[0].what != (refused := _refused(group[0].upload)):
                    await self._commit([_End(group[0].hand, group[0].upload, refused)])
                break
            else:
                break
        for hand in {end.hand for end in group}:
            hand.committed(end.upload for end in group)

    async def _finish(self, group: Sequence[_End]) -> None:
        """Commit how attempts ended; without a place for its thumbnail an upload is given back."""
        images = {end.upload.id: end.thumbnail for end in group if end.thumbnail and isinstance(end.what, Finished)}
        try:
            async with self._thumbnails.placed(images) as places:
                await self._write(group, places)
        except (StorageFullError, StorageUnavailableError) as error:
            delay = self._retry.delay(1, self._chance())
            self._log.warning("no place for thumbnails", uploads=len(images), code=error.code)
            back = [replace(end, what=Released(end.upload, delay)) if end.upload.id in images else end for end in group]
            await self._write(back, {})

    async def _write(self, group: Sequence[_End], places: Mapping[UUID, Placed]) -> None:
        """Commit how attempts ended; those that are no longer the current ones change nothing."""
        now = self._clock()
        finished = [
            replace(end.what, thumbnail=places.get(end.upload.id)) for end in group if isinstance(end.what, Finished)
        ]
        released = [end.what for end in group if isinstance(end.what, Released)]
        async with unit_of_work(self._database) as uow:
            batches = await uow.batches.lock({end.upload.batch_id for end in group if end.upload.batch_id})
            versions = _next_versions(batches)
            changes: list[tuple[UUID | None, Tally]] = []
            await uow.objects.record(ends_of(places.values()))
            if finished:
                ended = await uow.work.finish(finished, versions=versions, now=now, worker=self._worker)
                changes += [(batch_id, _ENDED[status]) for batch_id, status in ended]
            if released:
                given_back = await uow.work.release(released, versions=versions, now=now, worker=self._worker)
                changes += [(batch_id, _RELEASED) for _, batch_id, _ in given_back]
                at_once = [upload_id for upload_id, _, at_once in given_back if at_once]
                await queue.enqueue(uow.connection, at_once, first=True)
            await uow.batches.save(self._advance(batches, changes))
        if len(changes) < len(group):
            self._log.info("attempts overtaken", ended=len(group), kept=len(changes))

    async def _renew_leases(self) -> None:
        """Renew every third of a lease; give up at once what turns out not to be ours any longer."""
        seconds = self._lease.total_seconds() / 3
        while True:
            await asyncio.sleep(seconds)
            hands = list(self._hands)
            asked = [attempt for hand in hands for attempt in hand.attempts]
            if not asked:
                continue
            try:
                async with self._database.connection() as connection:
                    ours = await Work(connection).renew(asked, lease=self._lease)
            except DatabaseUnavailableError:
                seconds = min(_AGAIN_SECONDS, seconds)
                continue
            seconds = self._lease.total_seconds() / 3
            lost = set(asked) - ours
            given_up = sum(hand.lose(lost) for hand in hands)
            if given_up:
                self._log.info("given up, no longer ours", uploads=given_up)

    def _advance(self, batches: dict[UUID, Batch], changes: Sequence[tuple[UUID | None, Tally]]) -> list[Batch]:
        deltas: dict[UUID, Tally] = {}
        for batch_id, one in changes:
            if batch_id:
                deltas[batch_id] = one + deltas.get(batch_id, Tally())
        now = self._clock()
        return [advance(batches[batch_id], delta, now=now) for batch_id, delta in deltas.items()]


def _next_versions(batches: Mapping[UUID, Batch]) -> dict[UUID, int]:
    return {batch.id: batch.version + 1 for batch in batches.values()}


def _refused(upload: Upload) -> Finished:
    """Return the end of an upload whose own end the database does not take."""
    return Finished(upload, Refusal.of(ProcessorFailedError("What was found out about the file cannot be stored.")))


def _facts(upload: Upload) -> dict[str, object]:
    return {
        "upload_id": str(upload.id),
        "batch_id": str(upload.batch_id) if upload.batch_id else None,
        "attempt": upload.attempts,
    }
