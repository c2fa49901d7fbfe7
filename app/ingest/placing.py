"""The bytes of a group on their way to stable storage: what is there already is found, the rest goes into the pack.

Nothing here is a transaction, so that it may go on while the group before is being committed.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from uuid import UUID

from app.db.pool import Database
from app.domain.batch import Batch
from app.ingest.arrival import Arrival
from app.ingest.foresight import Sight, look
from app.ingest.joining import Joiner
from app.ingest.submission import Held, Submission
from app.repositories.unit_of_work import reading
from app.storage.pack import PackWriter


class Placer:
    """Looks and writes for the group commit. One per process; one `look` at a time."""

    def __init__(self, database: Database, pack: PackWriter, joiner: Joiner) -> None:
        self._database: Final = database
        self._pack: Final = pack
        self._joiner: Final = joiner
        self._turn: Final = asyncio.Lock()

    async def look(self, group: Sequence[Submission], recalled: Mapping[UUID, Batch]) -> Sight:
        """Refuse what cannot join its batch as things stand; return what the others were seen to join.

        `recalled` are batches as they were a moment ago. Raises DatabaseUnavailableError.
        """
        async with reading(self._database) as uow:
            return await look(uow, group, self._joiner, recalled)

    async def write(
        self, group: Sequence[Submission], held: Held, *, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Note where every arrival's bytes lie, and have them durable: those that are not `held` in the open pack.

        `meanwhile` is called while they are being written. Raises StorageFullError or StorageUnavailableError, and then
        none is.
        """
        async with self._turn:
            begin = self._pack.end
            small = self._place(group, held, *begin)
            if not small:
                meanwhile()
                return
            writing = asyncio.create_task(asyncio.to_thread(self._pack.append, [one.pieces for one in small]))
            await asyncio.sleep(0)  # it is begun now
            try:
                meanwhile()
            finally:
                pack_id, offsets = await writing
                assert (pack_id, offsets[0]) == begin, "the pack was left behind in between"

    def _place(self, group: Sequence[Submission], held: Held, pack_id: UUID, offset: int) -> list[Arrival]:
        """Note where bytes lie, or will; return the files that go into the pack from that offset on, in order."""
        placed = dict(held)
        small: list[Arrival] = []
        for submission in group:
            submission.places = []
            for arrival in submission.arrivals:
                if arrival.refusal:
                    submission.places.append(None)
                    continue
                key = (submission.owner, arrival.sha256, arrival.size_bytes)
                place = placed.get(key)
                arrival.duplicate = place is not None
                if place is None and arrival.writer:
                    place = placed[key] = (arrival.writer.object_id, 0)
                elif place is None:
                    place = placed[key] = (pack_id, offset)
                    offset += arrival.size_bytes
                    small.append(arrival)
                submission.places.append(place)
        return small
