"""The bytes of a group on their way to stable storage: what is there already is found, the rest goes into the pack.

Nothing here is a transaction, so that it may go on while the group before is being committed.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from app.db.pool import Database
from app.domain.batch import Batch
from app.domain.receiving import Place
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

    async def write(self, group: Sequence[Submission], held: Held) -> None:
        """Have every arrival's bytes durable, those that are not `held` in the open pack, and note where they lie.

        Raises StorageFullError or StorageUnavailableError, and then none is.
        """
        if any(submission.arrivals for submission in group):
            async with self._turn:
                await asyncio.to_thread(self._write, group, held)

    def _write(self, group: Sequence[Submission], held: Held) -> None:
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
