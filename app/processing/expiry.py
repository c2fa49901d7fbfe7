"""Uploads whose bytes never came: their time runs out, so that a sealed batch can finish."""

from datetime import datetime
from itertools import groupby
from typing import Final
from uuid import UUID

import structlog

from app.db.pool import Database
from app.domain.batch import advance, tally
from app.domain.errors import UploadExpiredError
from app.domain.ids import Clock
from app.domain.receiving import refused
from app.domain.upload import Refusal, UploadStatus
from app.repositories.unit_of_work import reading, unit_of_work

log: Final = structlog.get_logger("boatload.sweep")

_CHUNK: Final = 1000


async def expire_uploads(database: Database, clock: Clock) -> int:
    """Fail what is still `receiving` past its time, remove parts that no file became of; return how many.

    Their bytes go with the next sweep. Raises DatabaseUnavailableError.
    """
    expired = 0
    while True:
        now = clock()
        async with reading(database) as uow:
            page = await uow.receiving.list_expired(now=now, limit=_CHUNK)
        parts = [upload_id for upload_id, batch_id in page if batch_id is None]
        if parts:
            async with unit_of_work(database) as uow:
                await uow.receiving.delete_parts(parts, now=now)
        of_batches = sorted((batch_id, upload_id) for upload_id, batch_id in page if batch_id)
        for batch_id, group in groupby(of_batches, key=lambda pair: pair[0]):
            await _expire(database, batch_id, [upload_id for _, upload_id in group], now)
        expired += len(page)
        if len(page) < _CHUNK:
            break
    if expired:
        log.info("uploads expired", uploads=expired)
    return expired


async def _expire(database: Database, batch_id: UUID, upload_ids: list[UUID], now: datetime) -> None:
    why = Refusal.of(UploadExpiredError())
    async with unit_of_work(database) as uow:
        batch = (await uow.batches.lock([batch_id])).get(batch_id)
        if batch is None:
            return
        found = await uow.receiving.lock(upload_ids)
        before = [
            one.upload
            for one in found
            if one.upload.status is UploadStatus.RECEIVING and one.expires_at and one.expires_at <= now
        ]
        if not before:
            return
        after = [refused(upload, why, version=batch.version + 1, now=now) for upload in before]
        await uow.receiving.write(after)
        await uow.batches.save([advance(batch, tally(after) + -tally(before), now=now)])
