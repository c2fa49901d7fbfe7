"""Group commit: whatever is waiting is written, synced once, and committed in one transaction; then each is answered.

It waits for nobody: a lone file is committed at once, and groups form by themselves while the last one syncs. The bytes
are durable before the transaction that refers to them begins.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import structlog

from app.db.pool import Database
from app.domain.batch import FINAL_BATCH, Batch, admit, advance, new_batch, tally
from app.domain.errors import BoatloadError, NotFoundError, StorageUnavailableError
from app.domain.ids import Clock, Ids
from app.domain.limits import Limits
from app.domain.upload import Upload, UploadStatus
from app.ingest.arrival import Arrival
from app.jobs import queue
from app.repositories.unit_of_work import UnitOfWork, unit_of_work
from app.storage.pack import PackWriter

log: Final = structlog.get_logger("boatload.ingest")

GROUP_UPLOADS: Final = 4000
"""Most uploads in one transaction, so that none holds a batch for long."""
LULL_SECONDS: Final = 0.05
LONGEST_WAIT_SECONDS: Final = 0.5
_IDLE_CHECK_SECONDS: Final = 10

Kept = tuple[Batch, list[Upload]]
Draft = Callable[[Sequence[Arrival], Sequence[Upload]], bytes]
"""Writes down what is to be said of rows, while the database is busy with them: they may still be refused."""


@dataclass(slots=True, eq=False)
class Submission:
    """What one request has ready for one batch of `owner`."""

    owner: UUID
    batch_id: UUID
    arrivals: Sequence[Arrival]
    opens: bool = False
    """Whether the batch is to be opened first, under that id."""
    seals: bool = False
    """Whether the batch is to be sealed behind the arrivals."""
    behind: "Submission | None" = None
    """The one before it of the same request: where that was refused, so is this, and what is kept has no gap."""
    draft: Draft | None = None
    kept: asyncio.Future[Kept] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    places: list[tuple[UUID, int] | None] = field(default_factory=list)
    """For each arrival its object and offset, once it is durable."""
    refusal: BoatloadError | None = None
    """Why it was refused."""
    drafted: bytes = b""
    """What `draft` returned; good once it is kept."""


class GroupCommit:
    """The one road from arrivals to rows. One per process; `run` must be running."""

    def __init__(
        self,
        database: Database,
        pack: PackWriter,
        limits: Limits,
        *,
        clock: Clock,
        new_id: Ids,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database: Final = database
        self._pack: Final = pack
        self._limits: Final = limits
        self._clock: Final = clock
        self._new_id: Final = new_id
        self._waiting: Final[deque[Submission]] = deque()
        self._wake: Final = asyncio.Event()
        self._stopping = False
        self._monotonic: Final = monotonic
        self._last_submission = -LULL_SECONDS

    async def submit(self, submission: Submission) -> Kept:
        """Make the arrivals durable and part of their batch, all or none.

        Takes the arrivals over: their writers are closed, their bytes gone from memory, however it ends. Returns the
        batch as it then is, and the uploads in the order of the arrivals. Raises NotFoundError, BatchClosedError,
        TooManyUploadsError, BatchFullError, StorageFullError, StorageUnavailableError or DatabaseUnavailableError;
        after the last it is unknown whether they were kept. If the caller is cancelled they may still be kept.
        """
        if self._stopping:
            _refuse([submission], StorageUnavailableError())
            self._let_go([submission])
            return await submission.kept
        self._waiting.append(submission)
        self._last_submission = self._monotonic()
        self._wake.set()
        return await submission.kept

    async def lull(self) -> None:
        """Return once nobody has submitted for a moment; in a service that is always busy, soon all the same.

        For work that can wait, and that would lock the batches which files are joining right now.
        """
        give_up = self._monotonic() + LONGEST_WAIT_SECONDS
        while (now := self._monotonic()) < min(self._last_submission + LULL_SECONDS, give_up):  # noqa: ASYNC110 - a time
            await asyncio.sleep(min(self._last_submission + LULL_SECONDS, give_up) - now)

    async def run(self) -> None:
        """Commit group after group, until `stop` was called and nothing waits."""
        while self._waiting or not self._stopping:
            if not self._waiting:
                self._wake.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _IDLE_CHECK_SECONDS)
                self._pack.roll_if_idle()
                continue
            group = self._take()
            try:
                await self._commit(group)
            except BoatloadError as error:
                _refuse(group, error)
            except Exception:  # the loop must survive
                log.exception("group commit failed", submissions=len(group))
                _refuse(group, StorageUnavailableError())
            await asyncio.to_thread(self._let_go, group)
        await asyncio.to_thread(self._pack.close)

    def stop(self) -> None:
        """Ask `run` to end once nothing waits."""
        self._stopping = True
        self._wake.set()

    def _take(self) -> list[Submission]:
        group = [self._waiting.popleft()]
        count = len(group[0].arrivals)
        while self._waiting and (count := count + len(self._waiting[0].arrivals)) <= GROUP_UPLOADS:
            group.append(self._waiting.popleft())
        return group

    async def _commit(self, group: Sequence[Submission]) -> None:
        if any(submission.arrivals for submission in group):
            await asyncio.to_thread(self._place, group)
        opened = {one.batch_id: self._new_batch(one) for one in group if one.opens}
        moved: dict[UUID, Batch] = {}
        kept: list[tuple[Submission, list[Upload]]] = []
        async with unit_of_work(self._database) as uow:
            known = {submission.batch_id for submission in group} - opened.keys()
            batches = opened | (await uow.batches.lock(known) if known else {})
            for submission in group:
                batch = moved.get(submission.batch_id) or batches.get(submission.batch_id)
                try:
                    after, uploads = self._join(batch, submission)
                except BoatloadError as error:
                    _refuse([submission], error)
                    continue
                kept.append((submission, uploads))
                if after is not batch:
                    moved[after.id] = after
            for batch_id in opened.keys() & moved.keys():
                await uow.batches.insert(opened[batch_id])
            await self._write(uow, moved, kept)
        for submission, uploads in kept:
            if not submission.kept.done():
                batch = moved.get(submission.batch_id) or batches[submission.batch_id]
                submission.kept.set_result((batch, uploads))

    def _new_batch(self, submission: Submission) -> Batch:
        now = self._clock()
        return new_batch(submission.batch_id, submission.owner, now=now, expires_at=now + self._limits.batch_lifetime)

    def _place(self, group: Sequence[Submission]) -> None:
        """Append the small files to the open pack, and note where everything lies. Blocks."""
        small = [arrival for submission in group for arrival in submission.arrivals if _is_small(arrival)]
        pack_id, offsets = self._pack.append([arrival.pieces for arrival in small]) if small else (None, [])
        following = iter(offsets)
        for submission in group:
            for arrival in submission.arrivals:
                place = None
                if arrival.writer:
                    place = (arrival.writer.object_id, 0)
                elif _is_small(arrival) and pack_id:
                    place = (pack_id, next(following))
                submission.places.append(place)

    def _join(self, batch: Batch | None, submission: Submission) -> tuple[Batch, list[Upload]]:
        """Return the batch with the submission in it, and the rows that this makes. Pure but for ids and the clock."""
        if submission.behind and submission.behind.refusal:
            raise submission.behind.refusal
        if batch is None or batch.user_id != submission.owner:
            raise NotFoundError
        now = self._clock()
        if submission.arrivals:
            admit(batch, len(submission.arrivals), max_files=self._limits.max_files_per_batch, now=now)
        elif batch.sealed_at or batch.status in FINAL_BATCH:
            return batch, []
        version = batch.version + 1
        uploads = [
            Upload(
                id=self._new_id(),
                user_id=batch.user_id,
                batch_id=batch.id,
                ref=None,
                filename=arrival.filename,
                status=UploadStatus.FAILED if arrival.refusal else UploadStatus.PENDING,
                size_bytes=None if arrival.refusal else arrival.size_bytes,
                received_bytes=0 if arrival.refusal else arrival.size_bytes,
                content_type=arrival.content_type,
                detected_type=None,
                sha256=None if arrival.refusal else arrival.sha256,
                width=None,
                height=None,
                attempts=0,
                error=arrival.refusal,
                metadata={},
                object_id=place[0] if place else None,
                object_offset=place[1] if place else None,
                batch_version=version,
                created_at=now,
                updated_at=now,
                completed_at=now if arrival.refusal else None,
            )
            for arrival, place in zip(submission.arrivals, submission.places, strict=True)
        ]
        return advance(batch, tally(uploads), now=now, seal=submission.seals), uploads

    async def _write(
        self, uow: UnitOfWork, moved: dict[UUID, Batch], kept: Sequence[tuple[Submission, list[Upload]]]
    ) -> None:
        uploads = [upload for _, joined in kept for upload in joined]
        ends: dict[UUID, int] = {}
        for upload in uploads:
            if upload.object_id and upload.object_offset is not None:
                end = upload.object_offset + upload.received_bytes
                ends[upload.object_id] = max(end, ends.get(upload.object_id, 0))
        await uow.objects.record(list(ends.items()))
        if uploads:
            await asyncio.gather(uow.uploads.insert(uploads), asyncio.to_thread(_draft, kept))
        await uow.batches.save(list(moved.values()))
        await queue.enqueue(uow.connection, [upload.id for upload in uploads if upload.status is UploadStatus.PENDING])

    def _let_go(self, group: Sequence[Submission]) -> None:
        """Close the writers, and leave a full pack behind. What no row refers to is the sweeper's. Blocks."""
        for submission in group:
            for arrival in submission.arrivals:
                arrival.pieces = []
                if arrival.writer:
                    arrival.writer.close()
        self._pack.roll_if_full()


def _draft(kept: Sequence[tuple[Submission, list[Upload]]]) -> None:
    for submission, uploads in kept:
        if submission.draft:
            submission.drafted = submission.draft(submission.arrivals, uploads)


def _is_small(arrival: Arrival) -> bool:
    return arrival.writer is None and arrival.refusal is None


def _refuse(group: Sequence[Submission], error: BoatloadError) -> None:
    for submission in group:
        submission.refusal = submission.refusal or error
        if not submission.kept.done():
            submission.kept.set_exception(error)
