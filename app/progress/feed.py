"""The feed: one topic for each batch that is watched, told of changes by the one listener of this process."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager, suppress
from typing import Final
from uuid import UUID

import structlog

from app.db.pool import Database
from app.domain.errors import DatabaseUnavailableError, NotFoundError
from app.progress.changes import Changes
from app.progress.position import Position
from app.progress.reader import BatchReader
from app.progress.snapshot import Change, Snapshot
from app.progress.topic import RETRY_SECONDS, Topic

log: Final = structlog.get_logger("boatload.progress")


class Feed:
    """Tells those who watch batches when they move. One per process, on one event loop.

    Who watches costs one entry, whatever the batch does meanwhile; a batch that nobody watches costs nothing.
    """

    def __init__(self, database: Database, reader: BatchReader, *, heartbeat_seconds: float) -> None:
        self._reader: Final = reader
        self._changes: Final = Changes(database)
        self._heartbeat_seconds: Final = heartbeat_seconds
        self._topics: Final[dict[UUID, Topic]] = {}
        self._watchers: Final[dict[UUID, int]] = {}
        self._is_closed = False

    @property
    def watchers(self) -> int:
        """How many are watching."""
        return sum(self._watchers.values())

    def hear(self, payload: str) -> None:
        """Take a notification: `<batch id> <version>`."""
        batch_id, _, version = payload.partition(" ")
        try:
            topic = self._topics.get(UUID(batch_id))
            if topic:
                topic.hear(int(version))
        except ValueError:
            log.warning("a notification that is none of ours", payload=payload[:100])

    def missed(self) -> None:
        """Look at everything that is watched: changes may have gone unheard."""
        for topic in self._topics.values():
            topic.doubt()

    async def run(self, stop: asyncio.Event) -> None:
        """Wake the watchers now and then, so that they can show their clients that they live; until `stop` is set."""
        while not stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._heartbeat_seconds)
            for topic in self._topics.values():
                topic.beat()

    def close(self) -> None:
        """End all waiting, now and from now on: streams after the event they are at, long polls with what is known."""
        self._is_closed = True
        for topic in self._topics.values():
            topic.close()

    @contextmanager
    def watch(self, snapshot: Snapshot) -> Generator[Topic]:
        """Lend the topic of a batch that the watcher has just read.

        What was committed between that read and the first watch is found out by a read of the topic, soon.
        """
        batch_id = snapshot.batch.id
        topic = self._topics.get(batch_id)
        if topic is None:
            topic = self._topics[batch_id] = Topic(snapshot, self._reader)
            topic.is_closed = self._is_closed
            topic.doubt()
        topic.learn(snapshot)
        self._watchers[batch_id] = self._watchers.get(batch_id, 0) + 1
        try:
            yield topic
        finally:
            self._watchers[batch_id] -= 1
            if not self._watchers[batch_id]:
                del self._watchers[batch_id], self._topics[batch_id]
                topic.drop()

    async def wait(self, snapshot: Snapshot, *, seconds: float) -> Snapshot:
        """Return the batch as soon as it is beyond `snapshot`; or as it is after `seconds`, or when the feed closes.

        Raises NotFoundError where it is deleted meanwhile, DatabaseUnavailableError.
        """
        with self.watch(snapshot) as topic:
            try:
                async with asyncio.timeout(seconds):
                    while topic.latest.version <= snapshot.version and not topic.has_ended:
                        await topic.wait()
            except TimeoutError:
                return await self._reader.get(snapshot.batch.user_id, snapshot.batch.id)
            if topic.is_gone:
                raise NotFoundError
            return topic.latest

    async def follow(
        self, snapshot: Snapshot, since: Position | None, *, uploads: bool
    ) -> AsyncGenerator[Change | None]:
        """Yield the way from `since` to the final state, step by step; None now and then while nothing happens.

        `snapshot` is what the follower has just read. Without `since` it is the first step; with it, the first steps
        are those that lead there, with the uploads that changed on the way. Without `uploads` the steps are snapshots
        alone. Whoever is slow gets fewer and bigger steps. Ends behind the final state, when the batch is deleted, and
        when the feed closes.
        """
        with self.watch(snapshot) as topic:
            if since is None:
                since = snapshot.position
                yield Change(since, (), snapshot)
            while not topic.has_ended:
                known = max(snapshot, topic.latest, key=lambda one: one.version)
                if since < known.position:
                    try:
                        step = await self._changes.next(known, since, uploads=uploads)
                    except DatabaseUnavailableError:
                        await asyncio.sleep(RETRY_SECONDS)
                        continue
                    yield step
                    since = step.end
                elif known.is_final:
                    return
                else:
                    beats = topic.beats
                    await topic.wait()
                    if topic.beats > beats and topic.latest.position <= since and not topic.has_ended:
                        yield None
