"""A feed on a real database, with its listener, and a count of what it asks the database."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from app.db.listen import Listener
from app.db.pool import Database
from app.domain.batch import Batch, Tally, advance, new_batch
from app.domain.errors import DatabaseUnavailableError
from app.domain.ids import new_id, utc_now
from app.progress.feed import Feed
from app.progress.reader import BatchReader
from app.progress.snapshot import Snapshot
from app.repositories.batches import CHANNEL
from app.repositories.unit_of_work import unit_of_work
from tests.support.services import OWNER, later

if TYPE_CHECKING:
    from app.db.pool import Connection


class CountingDatabase(Database):
    """The real one, and how often a connection was lent: once for each read outside a transaction."""

    reads = 0
    is_lost = False
    late_seconds = 0.0
    """How long its answers take to arrive once they are there."""

    @asynccontextmanager
    async def connection(self) -> "AsyncGenerator[Connection]":
        if self.is_lost:
            raise DatabaseUnavailableError
        self.reads += 1
        async with super().connection() as connection:
            yield connection
            await asyncio.sleep(self.late_seconds)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a process runs for those who watch. `writer` is another pool, whose use is not counted."""

    database: CountingDatabase
    writer: Database
    reader: BatchReader
    feed: Feed

    async def open(self, *, seal: bool = False) -> Snapshot:
        """Insert a batch of OWNER's, and return it; sealed, it is in its final state."""
        batch = new_batch(new_id(), OWNER, now=utc_now(), expires_at=later(3600))
        async with unit_of_work(self.writer) as uow:
            await uow.batches.insert(batch)
        return await self.move(batch.id, seal=seal)

    async def move(self, batch_id: UUID, *, seal: bool = False) -> Snapshot:
        """Raise a batch's version, as any change does."""
        async with unit_of_work(self.writer) as uow:
            batch: Batch = (await uow.batches.lock([batch_id]))[batch_id]
            batch = advance(batch, Tally(), now=utc_now(), seal=seal)
            await uow.batches.save([batch])
        return Snapshot(batch)

    async def delete(self, batch_id: UUID) -> None:
        """Delete a batch."""
        async with unit_of_work(self.writer) as uow:
            locked = await uow.batches.lock([batch_id])
            await uow.batches.delete(locked[batch_id])


@asynccontextmanager
async def progressing(dsn: str, *, heartbeat_seconds: float = 60) -> AsyncIterator[Progress]:
    """Run a feed and its listener, which listens already."""
    database = await CountingDatabase.open(dsn, size=4)
    writer = await Database.open(dsn, size=4)
    assert isinstance(database, CountingDatabase)
    reader = BatchReader(database)
    feed = Feed(database, reader, heartbeat_seconds=heartbeat_seconds)
    listening, stop = asyncio.Event(), asyncio.Event()

    def missed() -> None:
        feed.missed()
        listening.set()

    listener = Listener(dsn, CHANNEL, hear=feed.hear, missed=missed)
    tasks = [asyncio.create_task(listener.run(stop)), asyncio.create_task(feed.run(stop))]
    await asyncio.wait_for(listening.wait(), 10)
    try:
        yield Progress(database, writer, reader, feed)
    finally:
        feed.close()
        stop.set()
        await asyncio.gather(*tasks)
        await database.close()
        await writer.close()
