"""Group commit: whatever is waiting is written, synced once, and committed in one transaction; then each is answered.

It waits for nobody: a lone file is committed at once, and groups form by themselves while the last one syncs. The bytes
are durable before the transaction that refers to them begins; those of the next group are written meanwhile.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final
from uuid import UUID

import structlog

from app.db.pool import Database
from app.domain.errors import BoatloadError, QuotaExceededError, StorageUnavailableError
from app.domain.ids import Clock, Ids
from app.domain.limits import Limits
from app.ingest.foresight import Sight
from app.ingest.foretelling import LastBatches
from app.ingest.joining import Joiner
from app.ingest.placing import Placer
from app.ingest.submission import Kept, Submission, refuse
from app.ingest.transaction import Committer, Joint
from app.storage.pack import PackWriter

log: Final = structlog.get_logger("boatload.ingest")

GROUP_UPLOADS: Final = 4000
"""Most uploads in one transaction, so that none holds a batch for long."""
LULL_SECONDS: Final = 0.05
LONGEST_WAIT_SECONDS: Final = 0.5
_IDLE_CHECK_SECONDS: Final = 10

Mark = tuple[UUID, bytes, int] | tuple[UUID, str] | UUID
"""What a group changes that another looks at: an owner's content, a batch's ref, an upload, a batch that it opens."""


@dataclass
class _Placed:
    """A group whose bytes are durable, to be committed."""

    group: list[Submission]
    sight: Sight = field(default_factory=Sight)
    foreseen: Joint | None = None

    @cached_property
    def marks(self) -> set[Mark]:
        """What it changes; looked at only where another group comes before it is committed."""
        marks: set[Mark] = {one.batch_id for one in self.group if one.opens}
        for submission in self.group:
            for arrival in submission.arrivals:
                if arrival.refusal is None:
                    marks.add((submission.owner, arrival.sha256, arrival.size_bytes))
                if arrival.ref is not None:
                    marks.add((submission.batch_id, arrival.ref))
                if arrival.fills:
                    marks.add(arrival.fills)
        return marks


class GroupCommit:
    """The one road from arrivals to rows. One per process; `run` must be running.

    `database` and `lookups` are asked side by side, one connection each.
    """

    def __init__(
        self,
        database: Database,
        lookups: Database,
        pack: PackWriter,
        limits: Limits,
        *,
        clock: Clock,
        new_id: Ids,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        joiner = Joiner(limits, clock=clock, new_id=new_id)
        last = LastBatches(monotonic)
        self._pack: Final = pack
        self._placer: Final = Placer(lookups, pack, joiner)
        self._committer: Final = Committer(database, joiner, limits, last, clock=clock, write=self._placer.write)
        self._last: Final = last
        self._waiting: Final[deque[Submission]] = deque()
        self._wake: Final = asyncio.Event()
        self._stopping = False
        self._uncommitted: Final[list[_Placed]] = []
        """In their order; the first of them are being committed."""
        self._due: Final = asyncio.Event()
        self._ended = False
        self._settled: Final = asyncio.Event()
        self._monotonic: Final = monotonic
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
            _let_go([submission])
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
        async with asyncio.TaskGroup() as both:
            both.create_task(self._commit_all())
            while self._waiting or not self._stopping:
                if self._waiting:
                    await self._place(self._take())
                else:
                    await self._rest()
            self._ended = True
            self._due.set()
        await asyncio.to_thread(self._pack.close)

    def stop(self) -> None:
        """Ask `run` to end once nothing waits."""
        self._stopping = True
        self._wake.set()

    async def _rest(self) -> None:
        self._wake.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), _IDLE_CHECK_SECONDS)
        if not self._uncommitted:
            self._pack.roll_if_idle()
            await self._leave_full_pack()

    def _take(self) -> list[Submission]:
        group = [self._waiting.popleft()]
        count = len(group[0].arrivals)
        while self._waiting and (count := count + len(self._waiting[0].arrivals)) <= GROUP_UPLOADS:
            group.append(self._waiting.popleft())
        return group

    async def _place(self, group: list[Submission]) -> None:
        """Make a group's bytes durable, and have it committed, or refused."""
        placed = _Placed(group)
        if self._uncommitted and not self._may_overtake(placed):
            self._settled.clear()
            await self._settled.wait()
        try:
            await self._leave_full_pack()
            placed.sight = await self._placer.look(
                group, self._last.recall((submission.batch_id, submission.owner) for submission in group)
            )
            if not self._committer.have_room(_standing(group)):
                await self._committer.ask(_standing(group))
            standing = _standing(group)
            await self._placer.write(standing, placed.sight.held, meanwhile=lambda: self._foresee(placed, standing))
        except BoatloadError as error:
            refuse(group, error)
        except Exception:  # the loop must survive
            log.exception("placing a group failed", submissions=len(group))
            refuse(group, StorageUnavailableError())
        self._uncommitted.append(placed)
        self._due.set()

    def _foresee(self, placed: _Placed, standing: Sequence[Submission]) -> None:
        """Work out what a group comes to that will be committed next."""
        if not self._uncommitted:
            placed.foreseen = self._committer.foresee(standing, placed.sight)

    async def _leave_full_pack(self) -> None:
        """Leave a pack behind that takes no more; all that was placed in it is committed."""
        if self._pack.is_full:
            await asyncio.to_thread(self._pack.roll_if_full)

    def _may_overtake(self, placed: _Placed) -> bool:
        """Say whether a group may be placed while others are being committed: that changes nothing that it looks at."""
        ahead = [submission for one in self._uncommitted for submission in one.group]
        seen = placed.marks.union(submission.batch_id for submission in placed.group)
        return (
            not self._pack.is_full
            and sum(len(submission.arrivals) for submission in (*ahead, *placed.group)) <= GROUP_UPLOADS
            and all(seen.isdisjoint(one.marks) for one in self._uncommitted)
            and self._committer.have_room([*ahead, *placed.group])
        )

    async def _commit_all(self) -> None:
        while self._uncommitted or not self._ended:
            if not self._uncommitted:
                self._settled.set()
                self._due.clear()
                await self._due.wait()
                continue
            taken = self._uncommitted.copy()
            await self._commit(taken)
            del self._uncommitted[: len(taken)]
            if self._pack.is_full:
                self._wake.set()

    async def _commit(self, taken: Sequence[_Placed]) -> None:
        group = [submission for one in taken for submission in one.group]
        try:
            foreseen = taken[0].foreseen if len(taken) == 1 else None
            await self._committer.commit(group, [one.sight for one in taken], foreseen)
        except BoatloadError as error:
            refuse(group, error)
        except Exception:  # the loop must survive
            log.exception("group commit failed", submissions=len(group))
            refuse(group, StorageUnavailableError())
        if any(arrival.writer for submission in group for arrival in submission.arrivals):
            await asyncio.to_thread(_let_go, group)
        else:
            _let_go(group)  # nothing in it blocks then


def _standing(group: Sequence[Submission]) -> list[Submission]:
    return [submission for submission in group if submission.refusal is None]


def _let_go(group: Sequence[Submission]) -> None:
    """Close the writers. What no row refers to is the sweeper's. Blocks."""
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


def _is_over_quota(submission: Submission) -> bool:
    return isinstance(submission.refusal, QuotaExceededError)
