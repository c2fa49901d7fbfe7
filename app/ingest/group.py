"""Group commit: whatever is waiting is written, synced once, and committed in one transaction; then each is answered.

It waits for nobody: a lone file is committed at once, and groups form by themselves while the last one syncs. The bytes
are durable before the transaction that refers to them begins.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID

import structlog

from app.db.pool import Database
from app.domain.batch import Batch, new_batch
from app.domain.errors import (
    BoatloadError,
    IdempotencyKeyInFlightError,
    QuotaExceededError,
    StorageUnavailableError,
)
from app.domain.ids import Clock, Ids
from app.domain.limits import Limits
from app.domain.receiving import Place
from app.domain.upload import UploadStatus
from app.ingest.arrival import Arrival
from app.ingest.foresight import find_known, refuse_hopeless
from app.ingest.joining import Joined, Joiner, Known
from app.ingest.keyed import RivalsError, record
from app.ingest.submission import Kept, Submission, refuse
from app.ingest.within_quota import Allowance, LastStandings
from app.jobs import queue
from app.repositories.unit_of_work import UnitOfWork, reading, unit_of_work
from app.storage.pack import PackWriter

log: Final = structlog.get_logger("boatload.ingest")

GROUP_UPLOADS: Final = 4000
"""Most uploads in one transaction, so that none holds a batch for long."""
LULL_SECONDS: Final = 0.05
LONGEST_WAIT_SECONDS: Final = 0.5
_IDLE_CHECK_SECONDS: Final = 10
_NOWHERE: Final = (UUID(int=0), 0)
"""Where bytes are said to lie before they are written."""

Held = dict[tuple[UUID, bytes, int], Place]
"""Where bytes lie, by their owner, digest and size."""


class _BytesGoneError(Exception):
    """The sweeper took what a duplicate was to refer to."""


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
        self._joiner: Final = Joiner(limits, clock=clock, new_id=new_id)
        self._waiting: Final[deque[Submission]] = deque()
        self._wake: Final = asyncio.Event()
        self._stopping = False
        self._monotonic: Final = monotonic
        self._standings: Final = LastStandings()
        self._last_submission = -LULL_SECONDS

    async def submit(self, submission: Submission) -> Kept:
        """Make the arrivals durable and part of their batch, all or none.

        Bytes that their owner has in the store already are not written again. Takes the arrivals over: their writers
        are closed, their bytes gone from memory, however it ends. Returns the batch as it then is, and the uploads in
        the order of the arrivals. Raises NotFoundError, BatchClosedError, TooManyUploadsError, BatchFullError,
        QuotaExceededError, RefConflictError, UploadGoneError, StorageFullError, StorageUnavailableError or
        DatabaseUnavailableError; after the last it is unknown whether they were kept. If the caller is cancelled they
        may still be kept.
        """
        if self._stopping:
            refuse([submission], StorageUnavailableError())
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
                refuse(group, error)
            except Exception:  # the loop must survive
                log.exception("group commit failed", submissions=len(group))
                refuse(group, StorageUnavailableError())
            if self._pack.is_full or any(one.writer for submission in group for one in submission.arrivals):
                await asyncio.to_thread(self._let_go, group)
            else:
                self._let_go(group)  # nothing in it blocks then
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
        async with reading(self._database) as uow:
            await refuse_hopeless(uow, group, self._joiner)
            held = await _find_held(uow, group)
        group = [submission for submission in group if submission.refusal is None]
        if not self._standings.have_room((one.owner, one.arrivals) for one in group):
            await self._ask_first(group)
            group = [submission for submission in group if submission.refusal is None]
        durable = within_quota = False
        while True:
            if not durable and any(submission.arrivals for submission in group):
                await asyncio.to_thread(self._place, group, held)
            durable = True
            waiting = [submission for submission in group if submission.refusal is None]
            try:
                await self._commit_once(waiting, held, within_quota=within_quota)
            except _BytesGoneError:
                held, durable = {}, False
            except QuotaExceededError:
                if within_quota:
                    raise
                within_quota = True
            except RivalsError as rivals:
                lost = [one for one in waiting if one.stretch and one.stretch.request.id in rivals.ids]
                refuse(lost, IdempotencyKeyInFlightError())
            else:
                return

    async def _ask_first(self, group: Sequence[Submission]) -> None:
        """Refuse what is over a quota before its bytes are written: in the pack nobody would get them out again."""
        for submission in group:
            submission.places = [None if one.refusal else _NOWHERE for one in submission.arrivals]
        async with unit_of_work(self._database) as uow:
            await self._join_all(uow, group, {}, within_quota=True)
        self._standings.learn(uow.usage.standings)

    async def _commit_once(self, group: Sequence[Submission], held: Held, *, within_quota: bool) -> None:
        """Commit the group. Raises QuotaExceededError where it is over somebody's quota, and nothing was committed.

        With `within_quota` only what is over is refused: owners are locked beforehand, which other processes then wait
        for, and so only where it must be.
        """
        async with unit_of_work(self._database) as uow:
            batches, kept = await self._join_all(uow, group, held, within_quota=within_quota)
            moved = {
                joined.batch.id: joined.batch for _, joined in kept if joined.batch is not batches[joined.batch.id]
            }
            for batch_id in {one.batch_id for one in group if one.opens} & moved.keys():
                await uow.batches.insert(batches[batch_id])
            await self._write(uow, moved, kept, held)
        self._standings.learn(uow.usage.standings)
        for submission, joined in kept:
            if not submission.kept.done():
                batch = moved.get(submission.batch_id) or batches[submission.batch_id]
                submission.kept.set_result((batch, joined.uploads))

    async def _join_all(
        self, uow: UnitOfWork, group: Sequence[Submission], held: Held, *, within_quota: bool
    ) -> tuple[dict[UUID, Batch], list[tuple[Submission, Joined]]]:
        """Have all join that may, and refuse the others; return the batches as they were, and what is to be written."""
        opened = {one.batch_id: self._new_batch(one) for one in group if one.opens}
        wanted = {submission.batch_id for submission in group} - opened.keys()
        batches = opened | (await uow.batches.lock(wanted) if wanted else {})
        await self._hold(uow, held)
        known = await find_known(uow, group, batches, lock=True)
        allowance = Allowance(await uow.usage.lock(one.owner for one in group) if within_quota else {})
        current = dict(batches)
        kept: list[tuple[Submission, Joined]] = []
        for submission in group:
            try:
                joined = self._join(current.get(submission.batch_id), submission, known, allowance)
            except BoatloadError as error:
                refuse([submission], error)
                continue
            kept.append((submission, joined))
            current[joined.batch.id] = joined.batch
        return batches, kept

    def _new_batch(self, submission: Submission) -> Batch:
        now = self._clock()
        return new_batch(submission.batch_id, submission.owner, now=now, expires_at=now + self._limits.batch_lifetime)

    async def _hold(self, uow: UnitOfWork, held: Held) -> None:
        """Keep the sweeper from what was found, or raise _BytesGoneError where it was faster."""
        objects = {object_id for object_id, _ in held.values()}
        if objects and await uow.objects.hold(objects) != objects:
            raise _BytesGoneError

    def _place(self, group: Sequence[Submission], held: Held) -> None:
        """Append the small files that are not there yet to the open pack, and note where everything lies. Blocks."""
        placed: dict[tuple[UUID, bytes, int], Place | None] = dict(held)
        small: list[tuple[tuple[UUID, bytes, int], Arrival]] = []
        for submission in group:
            for arrival in submission.arrivals:
                if arrival.refusal:
                    continue
                key = (submission.owner, arrival.sha256, arrival.size_bytes)
                arrival.duplicate = key in placed
                if arrival.duplicate:
                    continue
                placed[key] = (arrival.writer.object_id, 0) if arrival.writer else None
                if arrival.writer is None:
                    small.append((key, arrival))
        if small:
            pack_id, offsets = self._pack.append([arrival.pieces for _, arrival in small])
            placed.update({key: (pack_id, offset) for (key, _), offset in zip(small, offsets, strict=True)})
        for submission in group:
            submission.places = [
                None if one.refusal else placed[submission.owner, one.sha256, one.size_bytes]
                for one in submission.arrivals
            ]

    def _join(self, batch: Batch | None, submission: Submission, known: Known, allowance: Allowance) -> Joined:
        if submission.behind and submission.behind.refusal:
            raise submission.behind.refusal
        if submission.one_by_one and allowance.refuse_each(submission.owner, submission.arrivals):
            places = zip(submission.arrivals, submission.places, strict=True)
            submission.places = [None if arrival.refusal else place for arrival, place in places]
        trial = known.copy() if allowance else known
        joined = self._joiner.join(
            batch, submission.owner, submission.arrivals, submission.places, known=trial, seals=submission.seals
        )
        if allowance:
            allowance.take(submission.owner, None if submission.opens else batch, joined, known)
            known.update(trial)
        return joined

    async def _write(
        self, uow: UnitOfWork, moved: dict[UUID, Batch], kept: Sequence[tuple[Submission, Joined]], held: Held
    ) -> None:
        uploads = [upload for _, joined in kept for upload in joined.new]
        changed = {upload.id: upload for _, joined in kept for upload in joined.changed}
        ends: dict[UUID, int] = {}
        for submission, _ in kept:
            for arrival, place in zip(submission.arrivals, submission.places, strict=True):
                # Objects that stood there before are not ours to write: two processes would do so in any order.
                if place and not (held and (submission.owner, arrival.sha256, arrival.size_bytes) in held):
                    ends[place[0]] = max(place[1] + arrival.size_bytes, ends.get(place[0], 0))
        await uow.objects.record(list(ends.items()))
        if uploads and any(one.draft or one.stretch for one, _ in kept):
            await asyncio.gather(uow.uploads.insert(uploads), asyncio.to_thread(_draft, kept))
        elif uploads:
            await uow.uploads.insert(uploads)
        await uow.receiving.write(list(changed.values()))
        await uow.batches.save(list(moved.values()))
        to_process = [one.id for one in (*uploads, *changed.values()) if one.status is UploadStatus.PENDING]
        await queue.enqueue(uow.connection, to_process)
        if keyed := [(one.stretch, moved.get(one.batch_id, joined.batch)) for one, joined in kept if one.stretch]:
            await record(uow, keyed)

    def _let_go(self, group: Sequence[Submission]) -> None:
        """Close the writers, and leave a full pack behind. What no row refers to is the sweeper's. Blocks."""
        used = {place[0] for one in group if not _is_over_quota(one) for place in one.places if place}
        for submission in group:
            for arrival in submission.arrivals:
                arrival.pieces = []
                if arrival.writer is None:
                    continue
                over_quota = arrival.refusal or _is_over_quota(submission)
                if arrival.duplicate or (over_quota and arrival.writer.object_id not in used):
                    arrival.writer.discard()
                else:
                    arrival.writer.close()
        self._pack.roll_if_full()


async def _find_held(uow: UnitOfWork, group: Sequence[Submission]) -> Held:
    """Return where bytes of the group's owners, the same as these, lie already."""
    owners: dict[UUID, dict[tuple[bytes, int], None]] = {}
    for submission in group:
        if submission.refusal is None:
            contents = owners.setdefault(submission.owner, {})
            contents.update(dict.fromkeys(_content(one) for one in submission.arrivals if not one.refusal))
    held: Held = {}
    for owner, contents in owners.items():
        listed = list(contents)
        if listed:
            found = await uow.receiving.held(owner, listed)
            held |= {(owner, *listed[number]): place for number, place in found.items()}
    return held


def _draft(kept: Sequence[tuple[Submission, Joined]]) -> None:
    for submission, joined in kept:
        if submission.draft:
            submission.drafted = submission.draft(submission.arrivals, joined.uploads)
        if submission.stretch:
            submission.stretch.draft(submission.arrivals, joined.uploads, submission.drafted)


def _is_over_quota(submission: Submission) -> bool:
    return isinstance(submission.refusal, QuotaExceededError)


def _content(arrival: Arrival) -> tuple[bytes, int]:
    return arrival.sha256, arrival.size_bytes
