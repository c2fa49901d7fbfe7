"""One writer for each upload: a new one takes over from the one before, in this process or in another.

The store's lock keeps writers of one machine apart. Within the process they hand over here; to another process word is
left in the row, and every process looks after the rows of its own writers: where one is cancelled, deleted, filled by
another door or waited for, it is stopped.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import structlog

from app.db.pool import Database
from app.domain.errors import DatabaseUnavailableError, UploadLockedError
from app.repositories.unit_of_work import reading

log: Final = structlog.get_logger("boatload.ingest")

TAKEOVER_SECONDS: Final = 5.0
"""How long a new writer waits for the one before to let go."""
WATCH_SECONDS: Final = 0.5


@dataclass(slots=True, eq=False)
class Writer:
    """The right to write one upload, in this process."""

    upload_id: UUID
    takeover: UUID | None = None
    """What the row said when it began; another value asks it to stop."""
    waited: bool = False
    """Whether another one was there before it, and has moved the row."""
    watched: bool = False
    """Whether its row is `receiving`, so that it may be looked after."""
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    """Set: it is to make durable what it has, say so in the row, and end."""


@dataclass(slots=True)
class _Slot:
    writer: Writer
    waiting: asyncio.Future[None] | None = None


class Writers:
    """The writers of this process."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database
        self._slots: Final[dict[UUID, _Slot]] = {}
        self._idle: Final = asyncio.Event()
        self._idle.set()
        self._watching: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def take(self, upload_id: UUID) -> AsyncGenerator[Writer]:
        """Hold the right to write an upload; whoever has it is stopped first.

        Raises UploadLockedError where that one does not end in time, or where another one came after this.
        """
        writer = Writer(upload_id)
        slot = self._slots.get(upload_id)
        if slot is None:
            slot = self._slots[upload_id] = _Slot(writer)
            self._idle.clear()
        else:
            await self._wait(slot)
            slot.writer = writer
            writer.waited = True
            if slot.waiting and not slot.waiting.done():
                writer.stopped.set()
        try:
            yield writer
        finally:
            if slot.waiting and not slot.waiting.done():
                slot.waiting.set_result(None)
            else:
                self._free(upload_id)

    def is_held(self, upload_id: UUID) -> bool:
        """Say whether this process writes the upload right now."""
        return upload_id in self._slots

    def watch(self, writer: Writer, takeover: UUID | None) -> None:
        """From now on look after the writer's row, which is `receiving`."""
        writer.takeover = takeover
        writer.watched = True
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Have all writers end, and with them their rows; then stop looking after these.

        Those whose requests were cut when the service stopped are still about to say what is durable.
        """
        for slot in self._slots.values():
            slot.writer.stopped.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), TAKEOVER_SECONDS)
        if self._watching:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching

    async def _wait(self, slot: _Slot) -> None:
        """Wait for the slot; whoever waited before is sent away, because its client has come again."""
        if slot.waiting and not slot.waiting.done():
            slot.waiting.set_exception(UploadLockedError())
        slot.waiting = turn = asyncio.get_running_loop().create_future()
        slot.writer.stopped.set()
        try:
            async with asyncio.timeout(TAKEOVER_SECONDS):
                await turn
        except TimeoutError:
            self._pass_on(slot, turn)
            raise UploadLockedError from None
        except asyncio.CancelledError:
            self._pass_on(slot, turn)
            raise

    def _pass_on(self, slot: _Slot, turn: asyncio.Future[None]) -> None:
        """Give the slot on where it came at the moment in which its waiter left."""
        if not turn.done() or turn.cancelled() or turn.exception() is not None:
            return
        if slot.waiting and not slot.waiting.done():
            slot.waiting.set_result(None)
        else:
            self._free(slot.writer.upload_id)

    def _free(self, upload_id: UUID) -> None:
        del self._slots[upload_id]
        if not self._slots:
            self._idle.set()

    async def _watch(self) -> None:
        while watched := [slot.writer for slot in self._slots.values() if slot.writer.watched]:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                async with reading(self._database) as uow:
                    rows = await uow.receiving.watch([writer.upload_id for writer in watched])
            except DatabaseUnavailableError:
                continue
            for writer in watched:
                if writer.upload_id not in rows or rows[writer.upload_id] != writer.takeover:
                    log.info("writer stopped", upload_id=str(writer.upload_id))
                    writer.stopped.set()
