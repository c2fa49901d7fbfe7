"""One transaction for a group whose bytes are durable: objects, uploads, counters and jobs, or why one may not join."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from app.db.pool import Database
from app.domain.batch import FINAL_BATCH, Batch, new_batch
from app.domain.errors import (
    BoatloadError,
    DatabaseUnavailableError,
    IdempotencyKeyInFlightError,
    QuotaExceededError,
)
from app.domain.ids import Clock
from app.domain.limits import Limits
from app.domain.upload import UploadStatus
from app.ingest.foresight import Sight, find_known
from app.ingest.foretelling import LastBatches
from app.ingest.joining import Joined, Joiner, Known
from app.ingest.keyed import RivalsError, record
from app.ingest.submission import Held, Submission, refuse
from app.ingest.within_quota import Allowance, LastStandings
from app.jobs import queue
from app.repositories.unit_of_work import UnitOfWork, reading, unit_of_work

_NOWHERE: Final = (UUID(int=0), 0)
"""Where bytes are said to lie before they are written."""


class _BytesGoneError(Exception):
    """The sweeper took what a duplicate was to refer to."""


class _MovedError(Exception):
    """Somebody else has moved a batch."""


@dataclass(slots=True)
class Joint:
    """What a group comes to."""

    before: dict[UUID, Batch]
    """The batches that it joins, as they are."""
    moved: dict[UUID, Batch] = field(default_factory=dict)
    """Those that it changes, as they then are."""
    kept: list[tuple[Submission, Joined]] = field(default_factory=list)
    refused: dict[Submission, BoatloadError] = field(default_factory=dict)


class Committer:
    """Commits for the group commit. One per process, one group at a time.

    `write` makes the bytes of a group durable, as `Placer.write` does.
    """

    def __init__(
        self,
        database: Database,
        joiner: Joiner,
        limits: Limits,
        last: LastBatches,
        *,
        clock: Clock,
        write: Callable[[Sequence[Submission], Held], Awaitable[None]],
    ) -> None:
        self._database: Final = database
        self._joiner: Final = joiner
        self._limits: Final = limits
        self._clock: Final = clock
        self._place: Final = write
        self._standings: Final = LastStandings()
        self._last: Final = last

    def have_room(self, group: Sequence[Submission]) -> bool:
        """Say whether the owners, as they last stood, had room for all of it."""
        return self._standings.have_room((one.owner, one.arrivals) for one in group)

    async def ask(self, group: Sequence[Submission]) -> None:
        """Refuse what is over a quota before its bytes are written: in the pack nobody would get them out again.

        Raises DatabaseUnavailableError.
        """
        for submission in group:
            submission.places = [None if one.refusal else _NOWHERE for one in submission.arrivals]
        async with unit_of_work(self._database) as uow:
            joint = await self._lock(uow, group, {}, within_quota=True)
        for submission, error in joint.refused.items():
            refuse([submission], error)
        self._standings.learn(uow.usage.standings)

    async def commit(
        self, group: Sequence[Submission], sights: Sequence[Sight], foreseen: "Joint | None" = None
    ) -> None:
        """Commit a group whose bytes are durable, and answer each submission, unless it was refused.

        `sights` are what it was seen to join, and `foreseen` what `foresee` made of it. Raises
        DatabaseUnavailableError, after which it is unknown whether they were kept; StorageFullError or
        StorageUnavailableError where what was held is not there any more, and could not be written.
        """
        within_quota = False
        held = {content: place for sight in sights for content, place in sight.held.items()}
        batches = self._last.foretell(sights)
        while waiting := [submission for submission in group if submission.refusal is None]:
            joint = self._confirmed(foreseen, waiting, batches) if batches is not None else None
            batches = None
            try:
                if joint:
                    await self._commit_foreseen(joint)
                else:
                    await self._commit_once(waiting, held, within_quota=within_quota)
            except _MovedError:
                self._last.forget(submission.batch_id for submission in waiting)
            except _BytesGoneError:
                held = {}
                await self._place(waiting, held)
            except QuotaExceededError:
                if within_quota:
                    raise
                within_quota = True
            except RivalsError as rivals:
                lost = [one for one in waiting if one.stretch and one.stretch.request.id in rivals.ids]
                refuse(lost, IdempotencyKeyInFlightError())
            except DatabaseUnavailableError:
                self._last.forget(submission.batch_id for submission in waiting)
                raise
            else:
                return

    async def _commit_once(self, group: Sequence[Submission], held: Held, *, within_quota: bool) -> None:
        """Commit the group behind the locks of its batches.

        Raises QuotaExceededError where it is over somebody's quota, and nothing was committed. With `within_quota` only
        what is over is refused: owners are locked beforehand, which other processes then wait for, and so only where it
        must be.
        """
        async with unit_of_work(self._database) as uow:
            joint = await self._lock(uow, group, held, within_quota=within_quota)
            for submission, error in joint.refused.items():
                refuse([submission], error)
            for batch_id in {one.batch_id for one in group if one.opens} & joint.moved.keys():
                await uow.batches.insert(joint.before[batch_id])
            await self._write(uow, joint, held)
        self._standings.learn(uow.usage.standings)
        self._answer(joint)

    async def _commit_foreseen(self, joint: "Joint") -> None:
        """Commit a group that comes to what was foreseen, in one statement unless it opens a batch.

        Raises _MovedError, or QuotaExceededError, and nothing was committed.
        """
        if opened := {submission.batch_id for submission, _ in joint.kept if submission.opens}:
            async with unit_of_work(self._database) as uow:
                for batch_id in opened:
                    await uow.batches.insert(joint.before[batch_id])
                await self._write(uow, joint, {})
            self._standings.learn(uow.usage.standings)
        else:
            async with reading(self._database) as uow:
                await self._write(uow, joint, {}, alone=True)
        self._answer(joint)

    def _answer(self, joint: "Joint") -> None:
        self._last.learn(joint.before, joint.moved.values())
        for submission, joined in joint.kept:
            if not submission.kept.done():
                batch = joint.moved.get(submission.batch_id) or joint.before[submission.batch_id]
                submission.kept.set_result((batch, joined.uploads))

    def foresee(self, group: Sequence[Submission], sight: Sight) -> "Joint | None":
        """Return what a group comes to as far as can be told; to be given to `commit`, if nothing is refused of it."""
        batches = self._last.foretell([sight])
        return self._join_foretold(group, batches) if batches is not None else None

    def _confirmed(
        self, foreseen: "Joint | None", group: Sequence[Submission], batches: dict[UUID, Batch]
    ) -> "Joint | None":
        """Return what was foreseen, or if batches have moved since, what is foreseen now."""
        if (
            foreseen
            and len(foreseen.kept) == len(group)
            and all(foreseen.before[batch.id].version == batch.version for batch in batches.values())
        ):
            return foreseen
        return self._join_foretold(group, batches)

    def _join_foretold(self, group: Sequence[Submission], batches: dict[UUID, Batch]) -> "Joint | None":
        """Return what the group comes to where its batches are so, if that is all that must be known."""
        if any(one.stretch or self._standings.knows(one.owner) for one in group):
            return None
        joint = self._join_all(group, batches | self._opened(group), {}, Allowance({}))
        ends = any(batch.status in FINAL_BATCH for batch in joint.moved.values())  # somebody may have to be told
        return joint if joint.moved and not joint.refused and not ends else None

    async def _lock(self, uow: UnitOfWork, group: Sequence[Submission], held: Held, *, within_quota: bool) -> "Joint":
        """Return what the group comes to, behind the locks of all that it changes or looks at."""
        opened = self._opened(group)
        wanted = {submission.batch_id for submission in group} - opened.keys()
        batches = opened | (await uow.batches.lock(wanted) if wanted else {})
        await self._hold(uow, held)
        known = await find_known(uow, group, batches, lock=True)
        allowance = Allowance(await uow.usage.lock(one.owner for one in group) if within_quota else {})
        return self._join_all(group, batches, known, allowance)

    def _join_all(
        self, group: Sequence[Submission], batches: dict[UUID, Batch], known: Known, allowance: Allowance
    ) -> "Joint":
        """Have all join that may."""
        joint = Joint(batches)
        for submission in group:
            batch = joint.moved.get(submission.batch_id) or batches.get(submission.batch_id)
            try:
                joined = self._join(batch, submission, known, allowance, joint.refused)
            except BoatloadError as error:
                joint.refused[submission] = error
                continue
            joint.kept.append((submission, joined))
            if joined.batch is not batch:
                joint.moved[joined.batch.id] = joined.batch
        return joint

    def _opened(self, group: Sequence[Submission]) -> dict[UUID, Batch]:
        return {one.batch_id: self._new_batch(one) for one in group if one.opens}

    def _new_batch(self, submission: Submission) -> Batch:
        now = self._clock()
        return new_batch(submission.batch_id, submission.owner, now=now, expires_at=now + self._limits.batch_lifetime)

    async def _hold(self, uow: UnitOfWork, held: Held) -> None:
        """Keep the sweeper from what was found, or raise _BytesGoneError where it was faster."""
        objects = {object_id for object_id, _ in held.values()}
        if objects and await uow.objects.hold(objects) != objects:
            raise _BytesGoneError

    def _join(
        self,
        batch: Batch | None,
        submission: Submission,
        known: Known,
        allowance: Allowance,
        refused: Mapping[Submission, BoatloadError],
    ) -> Joined:
        if submission.behind and (error := submission.behind.refusal or refused.get(submission.behind)):
            raise error
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

    async def _write(self, uow: UnitOfWork, joint: "Joint", held: Held, *, alone: bool = False) -> None:
        """Write all of it: in one statement what needs no more. Raises _MovedError, and nothing was written."""
        changed = {upload.id: upload for _, joined in joint.kept for upload in joined.changed}
        uploads = [changed.pop(upload.id, upload) for _, joined in joint.kept for upload in joined.new]
        if joint.moved:
            to_process = [one.id for one in (*uploads, *changed.values()) if one.status is UploadStatus.PENDING]
            ends, jobs = _ends(joint.kept, held), queue.jobs_of(to_process)
            moved = list(joint.moved.values())
            keeping = uow.arrivals.keep(joint.before, moved, uploads, ends, jobs, alone=alone)
            if any(one.draft or one.stretch for one, _ in joint.kept):
                as_expected, _ = await asyncio.gather(keeping, asyncio.to_thread(_draft, joint.kept))
            else:
                as_expected = await keeping
            if not as_expected:
                raise _MovedError
        await uow.receiving.write(list(changed.values()))
        if keyed := [
            (one.stretch, joint.moved.get(one.batch_id, joined.batch)) for one, joined in joint.kept if one.stretch
        ]:
            await record(uow, keyed)


def _ends(kept: Sequence[tuple[Submission, Joined]], held: Held) -> list[tuple[UUID, int]]:
    """Return how far each object is durable that rows refer to from now on."""
    ends: dict[UUID, int] = {}
    for submission, _ in kept:
        for arrival, place in zip(submission.arrivals, submission.places, strict=True):
            # Objects that stood there before are not ours to write: two processes would do so in any order.
            if place and not (held and (submission.owner, arrival.sha256, arrival.size_bytes) in held):
                ends[place[0]] = max(place[1] + arrival.size_bytes, ends.get(place[0], 0))
    return list(ends.items())


def _draft(kept: Sequence[tuple[Submission, Joined]]) -> None:
    for submission, joined in kept:
        if submission.draft:
            submission.drafted = submission.draft(submission.arrivals, joined.uploads)
        if submission.stretch:
            submission.stretch.draft(submission.arrivals, joined.uploads, submission.drafted)
