"""Steps from one position of a batch to a later one, read once for all who stand at the same place."""

import asyncio
from collections import OrderedDict
from typing import Final
from uuid import UUID

from app.db.pool import Database
from app.progress.position import Position
from app.progress.snapshot import Change, Snapshot
from app.repositories.unit_of_work import reading

STEP_UPLOADS: Final = 100
"""Most uploads in one step; what a slow client may have waiting in its socket is one step."""
KEPT_UPLOADS: Final = 5000
"""Uploads in all steps that are kept for those who come to the same place a little later."""

_Place = tuple[UUID, Position]


class Changes:
    """Reads steps. A step stays true for ever: what has moved since comes with a later one, under a later version."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database
        self._kept: Final[OrderedDict[_Place, Change]] = OrderedDict()
        self._kept_uploads = 0
        self._running: Final[dict[tuple[_Place, int], asyncio.Task[Change]]] = {}

    async def next(self, latest: Snapshot, since: Position, *, uploads: bool) -> Change:
        """Return a step from `since`, which is before `latest`, towards it. Raises DatabaseUnavailableError."""
        if not uploads:
            return Change(latest.position, (), latest)
        place = (latest.batch.id, since)
        kept = self._kept.get(place)
        if kept and (kept.snapshot is None or kept.snapshot.version >= latest.version):
            return kept
        running = (place, latest.version)
        task = self._running.get(running)
        if task is None:
            task = self._running[running] = asyncio.create_task(self._read(latest, since), name="changes")
            task.add_done_callback(lambda _: self._running.pop(running, None))
        # Shielded: who goes away does not take the read of the others along.
        return await asyncio.shield(task)

    async def _read(self, latest: Snapshot, since: Position) -> Change:
        async with reading(self._database) as uow:
            found = await uow.uploads.list_changed(
                latest.batch.id, latest.batch.user_id, after=since, until=latest.version, limit=STEP_UPLOADS + 1
            )
        step = found[:STEP_UPLOADS]
        if len(found) > STEP_UPLOADS:
            change = Change(Position(step[-1].batch_version, step[-1].id), step, None)
        else:
            change = Change(latest.position, step, latest)
        self._keep((latest.batch.id, since), change)
        return change

    def _keep(self, place: _Place, change: Change) -> None:
        """Keep it, and let go of the oldest where too much is kept. A step counts as one upload more than it has."""
        before = self._kept.pop(place, None)
        self._kept_uploads += len(change.uploads) - len(before.uploads) if before else len(change.uploads) + 1
        self._kept[place] = change
        while self._kept_uploads > KEPT_UPLOADS:
            _, oldest = self._kept.popitem(last=False)
            self._kept_uploads -= len(oldest.uploads) + 1
