"""What an owner does with batches: open, read, list, seal, cancel, retry, delete."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from app.db.pool import Database
from app.domain.batch import (
    FINAL_BATCH,
    Batch,
    BatchStatus,
    Tally,
    admit,
    advance,
    cancel,
    check_retry,
    leave,
    new_batch,
    retry,
)
from app.domain.errors import BatchClosedError, NotFoundError
from app.domain.ids import Clock, Ids
from app.domain.limits import Limits
from app.domain.processing_errors import UnknownProcessorError
from app.domain.upload import UploadStatus
from app.domain.webhook_url import parse_webhook_url
from app.jobs import queue
from app.repositories.unit_of_work import reading, unit_of_work

AT_ONCE: Final = 10_000
"""Most uploads that one transaction cancels, or lets go: for so long all wait who want their batch."""
_NIL: Final = UUID(int=0)
_FIRST: Final = UploadStatus.PENDING.value, _NIL


class BatchService:
    """All methods are by owner: another's batch is NotFoundError. All may raise DatabaseUnavailableError."""

    def __init__(
        self,
        database: Database,
        limits: Limits,
        *,
        processors: frozenset[str],
        clock: Clock,
        new_id: Ids,
        at_once: int = AT_ONCE,
    ) -> None:
        self._database: Final = database
        self._limits: Final = limits
        self._processors: Final = processors
        self._clock: Final = clock
        self._new_id: Final = new_id
        self._at_once: Final = at_once

    async def open(
        self,
        owner: UUID,
        *,
        label: str | None,
        expected_uploads: int | None,
        metadata: dict[str, object],
        expires_in: timedelta | None,
        webhook_url: str | None = None,
        processors: Sequence[str] | None = None,
    ) -> Batch:
        """Open an empty batch; `webhook_url` is told when it ends.

        The named processors look into its files; None leaves that to the service. Raises InvalidWebhookUrlError,
        UnknownProcessorError and QuotaExceededError.
        """
        if webhook_url is not None:
            parse_webhook_url(webhook_url, allow_private=self._limits.allow_private_webhooks)
        if unknown := [name for name in processors or () if name not in self._processors]:
            raise UnknownProcessorError(
                f"There is no processor {unknown[0]!r}. There are: {', '.join(sorted(self._processors))}.",
                processors=sorted(self._processors),
            )
        now = self._clock()
        batch = new_batch(
            self._new_id(),
            owner,
            now=now,
            expires_at=now + (expires_in or self._limits.batch_lifetime),
            label=label,
            expected_uploads=expected_uploads,
            metadata=metadata,
        )
        async with unit_of_work(self._database) as uow:
            await uow.batches.insert(batch, webhook_url=webhook_url, processors=processors)
        return batch

    async def get(self, owner: UUID, batch_id: UUID) -> Batch:
        """Return a batch."""
        async with reading(self._database) as uow:
            batch = await uow.batches.find(batch_id, owner)
        if batch is None:
            raise NotFoundError
        return batch

    async def get_open(self, owner: UUID, batch_id: UUID) -> Batch:
        """Return a batch that takes at least one more upload. Raises what `admit` raises."""
        batch = await self.get(owner, batch_id)
        admit(batch, 1, max_files=self._limits.max_files_per_batch, now=self._clock())
        return batch

    async def list_page(
        self, owner: UUID, *, status: BatchStatus | None, before: tuple[datetime, UUID], limit: int
    ) -> list[Batch]:
        """Return batches, newest first, from just behind `before` on."""
        async with reading(self._database) as uow:
            return await uow.batches.list_page(owner, status=status, before=before, limit=limit)

    async def seal(self, owner: UUID, batch_id: UUID) -> Batch:
        """Say that nothing more will be added. A batch that is sealed already stays as it is.

        Raises BatchClosedError for one that was cancelled.
        """
        async with unit_of_work(self._database) as uow:
            batch = await uow.batches.lock_owned(batch_id, owner)
            if batch is None:
                raise NotFoundError
            if batch.sealed_at is not None:
                return batch
            if batch.status in FINAL_BATCH:
                raise BatchClosedError(f"The batch is {batch.status}.", batch_status=batch.status)
            batch = advance(batch, Tally(), now=self._clock(), seal=True)
            await uow.batches.save([batch])
        return batch

    async def cancel(self, owner: UUID, batch_id: UUID) -> Batch:
        """Cancel what is unfinished, and take nothing more. A batch that is cancelled already stays as it is.

        A large one is cancelled in several transactions, and nothing joins it from the first on; where this is cut
        short, the next call goes on, and without one the batch is cancelled once what is left in it is processed.
        Raises BatchClosedError for one that is completed or failed.
        """
        after = _FIRST
        while True:
            async with unit_of_work(self._database) as uow:
                batch = await uow.batches.lock_owned(batch_id, owner)
                if batch is None:
                    raise NotFoundError
                if batch.status is BatchStatus.CANCELLED:
                    return batch
                now = self._clock()
                some = await uow.uploads.cancel(
                    batch_id, owner, after=after, limit=self._at_once, version=batch.version + 1, now=now
                )
                unfinished = Tally(
                    received_bytes=-some.partial_bytes,
                    receiving=-some.before.receiving,
                    pending=-some.before.pending,
                    processing=-some.before.processing,
                    cancelled=some.uploads,
                )
                batch = cancel(batch, unfinished, now=now)
                assert some.uploads or after != _FIRST or not batch.unfinished_uploads
                await uow.batches.save([batch])
            if batch.status is BatchStatus.CANCELLED:
                return batch
            after = max(some.last.items()) if some.uploads == self._at_once else _FIRST

    async def retry(self, owner: UUID, batch_id: UUID, upload_ids: Sequence[UUID] | None) -> Batch:
        """Process again what failed with its bytes stored: these uploads, or all. Others of the batch stay as they are.

        A finished batch goes back to `processing`; where there is nothing to process it stays as it is. Raises
        NotFoundError also where an id is not of this batch, BatchClosedError where the batch was cancelled.
        """
        async with unit_of_work(self._database) as uow:
            batch = await uow.batches.lock_owned(batch_id, owner)
            if batch is None:
                raise NotFoundError
            chosen = None if upload_ids is None else sorted(set(upload_ids))
            if chosen and await uow.work.count_in_batch(chosen, batch_id) < len(chosen):
                raise NotFoundError
            check_retry(batch)
            now = self._clock()
            retried = await uow.work.retry(batch_id, chosen, version=batch.version + 1, now=now)
            if retried:
                batch = retry(batch, len(retried), now=now)
                await uow.batches.save([batch])
                await queue.enqueue(uow.connection, retried)
        return batch

    async def delete(self, owner: UUID, batch_id: UUID, *, with_uploads: bool) -> None:
        """Delete a batch; its uploads go on without it, unless they are to go along.

        Those that are not whole yet are cancelled. Many go on in several transactions; where this is cut short, the
        batch is there with those that have not gone, and the next call goes on.
        """
        if with_uploads:
            async with unit_of_work(self._database) as uow:
                batch = await uow.batches.lock_owned(batch_id, owner)
                if batch is None:
                    raise NotFoundError
                await uow.uploads.delete_all(batch_id, owner)
                await uow.batches.delete(batch)
            return
        after = _NIL
        while True:
            async with unit_of_work(self._database) as uow:
                batch = await uow.batches.lock_owned(batch_id, owner)
                if batch is None:
                    raise NotFoundError
                now = self._clock()
                some = await uow.uploads.leave(batch_id, owner, after=after, limit=self._at_once, now=now)
                if some.uploads == batch.total_uploads or not (some.uploads or after.int):
                    await uow.batches.delete(batch)
                    return
                await uow.batches.save([leave(batch, some.before, now=now)])
            after = max(some.last.values()) if some.uploads == self._at_once else _NIL
