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
    new_batch,
    retry,
)
from app.domain.errors import BatchClosedError, NotFoundError
from app.domain.ids import Clock, Ids
from app.domain.limits import Limits
from app.domain.processing_errors import UnknownProcessorError
from app.domain.webhook_url import parse_webhook_url
from app.jobs import queue
from app.repositories.unit_of_work import reading, unit_of_work


class BatchService:
    """All methods are by owner: another's batch is NotFoundError. All may raise DatabaseUnavailableError."""

    def __init__(
        self, database: Database, limits: Limits, *, processors: frozenset[str], clock: Clock, new_id: Ids
    ) -> None:
        self._database: Final = database
        self._limits: Final = limits
        self._processors: Final = processors
        self._clock: Final = clock
        self._new_id: Final = new_id

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

        Raises BatchClosedError for one that is completed or failed.
        """
        async with unit_of_work(self._database) as uow:
            batch = await uow.batches.lock_owned(batch_id, owner)
            if batch is None:
                raise NotFoundError
            if batch.status is BatchStatus.CANCELLED:
                return batch
            dropped = await uow.receiving.drop_bytes(batch_id, owner) if batch.receiving_uploads else 0
            unfinished = Tally(
                received_bytes=-dropped,
                receiving=-batch.receiving_uploads,
                pending=-batch.pending_uploads,
                processing=-batch.processing_uploads,
                cancelled=batch.receiving_uploads + batch.pending_uploads + batch.processing_uploads,
            )
            now = self._clock()
            batch = cancel(batch, unfinished, now=now)
            await uow.uploads.cancel_all(batch.id, version=batch.version, now=now)
            await uow.batches.save([batch])
        return batch

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

        Those that are not whole yet are cancelled.
        """
        async with unit_of_work(self._database) as uow:
            batch = await uow.batches.lock_owned(batch_id, owner)
            if batch is None:
                raise NotFoundError
            if with_uploads:
                await uow.uploads.delete_all(batch_id, owner)
            else:
                now = self._clock()
                await uow.receiving.cancel_all(batch_id, owner, now=now)
                await uow.uploads.leave_all(batch_id, now=now)
            await uow.batches.delete(batch)
