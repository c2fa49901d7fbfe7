"""Reads of single batches, made together: those that come while a query runs are answered by the next one."""

import asyncio
from itertools import islice
from typing import Final
from uuid import UUID

from app.db.pool import Database
from app.domain.errors import DatabaseUnavailableError, NotFoundError
from app.progress.snapshot import Snapshot
from app.repositories.unit_of_work import reading

MOST_AT_ONCE: Final = 1000
"""Batches in one query."""


class BatchReader:
    """Reads batches for everybody in this process, one query at a time.

    A read is never answered by a query that began before it came, so whoever reads after a change was acknowledged sees
    that change. However many ask for one batch at a time, it is read, and encoded, once.
    """

    def __init__(self, database: Database) -> None:
        self._database: Final = database
        self._waiting: dict[UUID, list[asyncio.Future[Snapshot | None]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def get(self, owner: UUID, batch_id: UUID) -> Snapshot:
        """Return the owner's batch. Raises NotFoundError, DatabaseUnavailableError."""
        snapshot = await self.find(batch_id)
        if snapshot is None or snapshot.batch.user_id != owner:
            raise NotFoundError
        return snapshot

    async def find(self, batch_id: UUID) -> Snapshot | None:
        """Return a batch, whoever owns it, or None where there is none. Raises DatabaseUnavailableError."""
        found: asyncio.Future[Snapshot | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(batch_id, []).append(found)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="batch reader")
        return await found

    async def _run(self) -> None:
        """Read until nobody waits."""
        try:
            while self._waiting:
                asked = {batch_id: self._waiting.pop(batch_id) for batch_id in [*islice(self._waiting, MOST_AT_ONCE)]}
                await self._answer(asked)
        finally:
            self._task = None

    async def _answer(self, asked: dict[UUID, list[asyncio.Future[Snapshot | None]]]) -> None:
        try:
            async with reading(self._database) as uow:
                found = {batch.id: Snapshot(batch) for batch in await uow.batches.list_by_ids(asked)}
        except Exception as error:  # noqa: BLE001 - whoever asked is told, and those who ask next have a reader
            lost = isinstance(error, DatabaseUnavailableError)
            for future in (future for waiting in asked.values() for future in waiting if not future.done()):
                future.set_exception(DatabaseUnavailableError() if lost else error)
            return
        for batch_id, waiting in asked.items():
            snapshot = found.get(batch_id)
            for future in waiting:
                if not future.done():
                    future.set_result(snapshot)
