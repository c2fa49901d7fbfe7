"""One batch that somebody watches: what is known of it, and who is woken when it moves."""

import asyncio
from typing import Final
from uuid import UUID

import structlog

from app.domain.errors import BoatloadError
from app.progress.reader import BatchReader
from app.progress.snapshot import Snapshot

log: Final = structlog.get_logger("boatload.progress")

PACE_SECONDS: Final = 0.1
"""Between two reads of one batch, so ten a second; whatever changes meanwhile is seen together."""
RETRY_SECONDS: Final = 1.0
"""Between two tries while the database cannot be reached."""


class Topic:
    """What the watchers of one batch share. Nothing is read unless there is word of a change."""

    def __init__(self, snapshot: Snapshot, reader: BatchReader) -> None:
        self.batch_id: Final[UUID] = snapshot.batch.id
        self.latest = snapshot
        """The state that the watchers were last woken for; its version never falls."""
        self.is_gone = False
        """The batch was deleted."""
        self.is_closed = False
        """The service stops: nobody is to wait any more."""
        self.beats = 0
        """How often the watchers were woken only to show that they live."""
        self._reader: Final = reader
        self._found = snapshot
        self._heard = 0
        self._doubt = False
        self._read_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.is_gone or self.is_closed

    def learn(self, snapshot: Snapshot) -> None:
        """Take what somebody else has read just now; the watchers hear of it in their time."""
        if snapshot.version > self._found.version:
            self._found = snapshot
            self._schedule()

    def hear(self, version: int) -> None:
        """There is word of a version."""
        if version > max(self.latest.version, self._heard):
            self._heard = version
            self._schedule()

    def doubt(self) -> None:
        """Anything may have been missed: look again."""
        self._doubt = True
        self._schedule()

    async def wait(self) -> None:
        """Return when the batch moves, is deleted, at a beat, or when the service stops."""
        if not self.has_ended:
            await self._moved.wait()

    def beat(self) -> None:
        """Wake everybody to show that they are alive."""
        self.beats += 1
        self._wake()

    def close(self) -> None:
        """Wake everybody for the last time; they are to end."""
        self.is_closed = True
        self._wake()

    def drop(self) -> None:
        """Nobody watches any more."""
        if self._timer:
            self._timer.cancel()
        if self._task:
            self._task.cancel()

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _schedule(self) -> None:
        if self._timer is None and self._task is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, self._read_at + PACE_SECONDS - loop.time()), self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._task = asyncio.create_task(self._look(), name="topic")

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._read_at = loop.time()
        try:
            if self._doubt or self._heard > self._found.version:
                self._doubt = False
                await self._read()
        finally:
            self._task = None
        if self.is_gone:
            self._wake()
            return
        if self._found.version > self.latest.version:
            self.latest = self._found
            self._wake()
        if self._doubt or self._heard > self.latest.version:
            self._schedule()

    async def _read(self) -> None:
        try:
            found = await self._reader.find(self.batch_id)
        except BoatloadError:
            self._doubt = True
            self._read_at += RETRY_SECONDS - PACE_SECONDS
        else:
            if found is None:
                self.is_gone = True
            elif found.version > self._found.version:
                self._found = found
