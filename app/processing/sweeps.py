"""What is done again and again so that nothing is forgotten: uploads without job or bytes, bytes without upload."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from itertools import islice
from typing import Final
from uuid import UUID

import structlog

from app.db.pool import Database
from app.domain.errors import BoatloadError
from app.domain.ids import Clock, made_at
from app.jobs import queue
from app.processing.expiry import expire_uploads
from app.repositories.unit_of_work import reading, unit_of_work
from app.storage.base import Store

log: Final = structlog.get_logger("boatload.sweep")

_CHUNK: Final = 1000
_NIL: Final = UUID(int=0)
REQUEUE_SECONDS: Final = 1.0
"""How often uploads that need a job are looked for: their wait is over, their worker is silent, their job was lost."""
_SUSPECT_ATTEMPTS: Final = 2
"""An upload that was in the hands of so many silent workers may be why: from then on it has a job to itself."""
TRIM_SECONDS: Final = 600.0
"""How often the queue's own log is trimmed."""

EXPIRE_SECONDS: Final = 60.0
"""How often uploads, and keys of requests, are looked for whose time has run out."""


class Sweeper:
    """Runs in every process that works; several at once do no harm."""

    def __init__(self, database: Database, store: Store, *, min_age: timedelta, clock: Clock) -> None:
        self._database: Final = database
        self._store: Final = store
        self._min_age: Final = min_age
        self._clock: Final = clock

    async def run(self, *, interval_seconds: float, stop: asyncio.Event) -> None:
        """Sweep until `stop` is set; a sweep that fails is logged, and the next one tries again."""
        await asyncio.gather(
            _again_and_again(self.requeue, min(REQUEUE_SECONDS, interval_seconds), stop),
            _again_and_again(self.trim_queue_log, TRIM_SECONDS, stop),
            _again_and_again(self.expire_uploads, min(EXPIRE_SECONDS, interval_seconds), stop),
            _again_and_again(self.forget_keys, min(EXPIRE_SECONDS, interval_seconds), stop),
            _again_and_again(self.remove_abandoned, interval_seconds, stop),
        )

    async def requeue(self) -> int:
        """Enqueue uploads that are to be processed and have no job, and return how many.

        While another sweeper is at it, none.
        """
        requeued = 0
        begun = self._clock()  # what comes back while this goes on is for the next time
        while True:
            async with unit_of_work(self._database) as uow:
                if not await uow.work.sweep_alone():
                    break
                expired = await uow.work.take_expired(limit=_CHUNK)
                due = await uow.work.take_due(limit=_CHUNK)
                forgotten = await uow.work.take_forgotten(queued_before=begun, limit=_CHUNK)
                once = [upload_id for upload_id, counted in expired if counted < _SUSPECT_ATTEMPTS]
                suspects = [upload_id for upload_id, counted in expired if counted >= _SUSPECT_ATTEMPTS]
                await queue.enqueue(uow.connection, once, first=True)
                await queue.enqueue(uow.connection, suspects, first=True, job_uploads=1)
                await queue.enqueue(uow.connection, due + forgotten)
            requeued += len(expired) + len(due) + len(forgotten)
            if expired or due or forgotten:
                log.info("enqueued again", silent=len(expired), due=len(due), forgotten=len(forgotten))
            if max(len(expired), len(due), len(forgotten)) < _CHUNK:
                break
        return requeued

    async def trim_queue_log(self) -> int:
        """Remove what the queue noted long ago, and return how many rows that was."""
        trimmed = 0
        while True:
            async with reading(self._database) as uow:
                removed = await queue.trim_log(uow.connection)
            trimmed += removed
            if not removed:
                return trimmed

    async def expire_uploads(self) -> int:
        """Fail what was declared and did not come in time, and return how many."""
        return await expire_uploads(self._database, self._clock)

    async def forget_keys(self) -> int:
        """Forget requests whose Idempotency-Key has run out, and return how many."""
        forgotten = 0
        while True:
            async with reading(self._database) as uow:
                chunk = await uow.idempotency_keys.delete_expired(self._clock(), _CHUNK)
            forgotten += chunk
            if chunk < _CHUNK:
                return forgotten

    async def remove_abandoned(self) -> int:
        """Remove objects that no upload refers to, and return how many.

        Whoever writes an object holds it, so one that can be claimed here is in nobody's hands; its row goes first, and
        the bytes only if the row is gone for certain.
        """
        removed = 0
        after = _NIL
        while True:
            async with reading(self._database) as uow:
                page = await uow.objects.list_page(after=after, limit=_CHUNK)
            if not page:
                break
            after = page[-1][0]
            removed += await self._remove([object_id for object_id, used in page if not used])
        ids = await asyncio.to_thread(self._store.list)
        while chunk := await asyncio.to_thread(lambda: list(islice(ids, _CHUNK))):
            limit = self._clock() - self._min_age
            old = [object_id for object_id in chunk if made_at(object_id) < limit]
            async with reading(self._database) as uow:
                existing = await uow.objects.existing(old)
            removed += await self._remove([object_id for object_id in old if object_id not in existing])
        if removed:
            log.info("removed abandoned objects", objects=removed)
        return removed

    async def _remove(self, object_ids: Sequence[UUID]) -> int:
        removed = 0
        for object_id in object_ids:
            claim = await asyncio.to_thread(self._store.claim_abandoned, object_id)
            if claim is None:
                continue
            try:
                async with reading(self._database) as uow:
                    gone = await uow.objects.delete_unused(object_id)
                if gone:
                    await asyncio.to_thread(claim.remove)
                    removed += 1
            finally:
                await asyncio.to_thread(claim.release)
        return removed


async def _again_and_again(sweep: Callable[[], Awaitable[int]], seconds: float, stop: asyncio.Event) -> None:
    """Sweep every so many seconds; `stop` ends a sweep in its middle, which does no harm."""
    stopping = asyncio.ensure_future(stop.wait())
    while not stop.is_set():
        sweeping = asyncio.ensure_future(_survived(sweep))
        await asyncio.wait([sweeping, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not sweeping.done():
            sweeping.cancel()
            await asyncio.wait([sweeping])
        await asyncio.wait([stopping], timeout=seconds)
    await stopping


async def _survived(sweep: Callable[[], Awaitable[int]]) -> None:
    try:
        await sweep()
    except BoatloadError as error:
        log.warning("sweep failed", code=error.code)
    except Exception:  # the loop must survive; the next sweep tries again
        log.exception("sweep failed")
