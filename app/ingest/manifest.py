"""Declaring files before their bytes come: many at once, in one transaction; and again, to learn what is missing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from app.db.pool import Database
from app.domain.batch import FINAL_BATCH, Batch, Tally, admit, advance, new_batch, tally
from app.domain.errors import BatchClosedError, NotFoundError
from app.domain.ids import Clock, Ids
from app.domain.limits import Limits
from app.domain.receiving import (
    Action,
    NewUpload,
    Place,
    Receiving,
    action_for,
    check_entries,
    check_open,
    check_same,
)
from app.domain.upload import Upload, UploadStatus
from app.jobs import queue
from app.repositories.unit_of_work import UnitOfWork, unit_of_work


@dataclass(frozen=True, slots=True)
class Declared:
    """What is left to do for one declared file."""

    upload: Upload
    action: Action
    offset: int
    """Where to go on; with `have`, its size."""
    fresh: bool
    """Whether this call declared it, or an earlier one."""


class Manifests:
    """All by owner: another's batch is NotFoundError. All may raise DatabaseUnavailableError."""

    def __init__(self, database: Database, limits: Limits, *, clock: Clock, new_id: Ids) -> None:
        self._database: Final = database
        self._limits: Final = limits
        self._clock: Final = clock
        self._new_id: Final = new_id

    async def declare(
        self, owner: UUID, batch_id: UUID | None, entries: Sequence[NewUpload], *, seal: bool = False
    ) -> tuple[Batch, list[Declared]]:
        """Make the files part of the batch, all or none; return it, and what is left to do for each entry, in order.

        Without a batch one is opened for them, in the same transaction.

        What was declared before under the same ref is not declared again: the same call twice has one effect. Bytes
        that the owner has stored already, by digest and size, need not be sent: such an upload is `pending` at once.
        A batch that is sealed, or was filled, still answers for what it has.

        Raises InvalidManifestError or FileTooLargeError for the entries, RefConflictError where a ref stands for
        another file, and what `admit` and `check_open` raise; then nothing was declared.
        """
        check_entries(entries, max_file_bytes=self._limits.max_file_bytes)
        async with unit_of_work(self._database) as uow:
            now = self._clock()
            if batch_id is None:
                batch = new_batch(self._new_id(), owner, now=now, expires_at=now + self._limits.batch_lifetime)
                await uow.batches.insert(batch)
            else:
                batch = await self._lock(uow, owner, batch_id)
            known = await self._find_known(uow, batch, entries)
            check_same((entry, known[entry.ref]) for entry in entries if entry.ref in known)
            for one in known.values():
                check_open(one, now=now)
            new = [entry for entry in entries if entry.ref is None or entry.ref not in known]
            if new:
                admit(batch, len(new), max_files=self._limits.max_files_per_batch, now=now)
            made = await self._insert(uow, batch, new, now)
            seals = seal and batch.sealed_at is None
            if seals and batch.status in FINAL_BATCH:
                raise BatchClosedError(f"The batch is {batch.status}.", batch_status=batch.status)
            if made or seals:
                batch = advance(batch, tally(made) if made else Tally(), now=now, seal=seals)
                await uow.batches.save([batch])
            await queue.enqueue(uow.connection, [one.id for one in made if one.status is UploadStatus.PENDING])
        following = iter(made)
        return batch, [
            _declared(known[entry.ref]) if entry.ref is not None and entry.ref in known else _fresh(next(following))
            for entry in entries
        ]

    async def declare_part(self, owner: UUID, new: NewUpload) -> Upload:
        """Declare a part of a file to come. It is in no batch, and goes when its time is over."""
        assert new.partial
        check_entries([new], max_file_bytes=self._limits.max_file_bytes)
        now = self._clock()
        upload = self._row(owner, new, None, batch_id=None, version=1, now=now)
        async with unit_of_work(self._database) as uow:
            await uow.receiving.insert(
                [upload],
                [new],
                user_id=owner,
                batch_id=None,
                version=1,
                now=now,
                expires_at=now + self._limits.part_lifetime,
            )
        return upload

    async def _lock(self, uow: UnitOfWork, owner: UUID, batch_id: UUID) -> Batch:
        batch = (await uow.batches.lock([batch_id])).get(batch_id)
        if batch is None or batch.user_id != owner:
            raise NotFoundError
        return batch

    async def _find_known(
        self, uow: UnitOfWork, batch: Batch, entries: Sequence[NewUpload]
    ) -> dict[str | None, Receiving]:
        refs = [(batch.id, entry.ref) for entry in entries if entry.ref is not None]
        if not refs or not batch.total_uploads:
            return {}
        found = await uow.receiving.lock_refs(refs)
        return {one.upload.ref: replace(one, batch_status=batch.status) for one in found}

    async def _insert(self, uow: UnitOfWork, batch: Batch, new: Sequence[NewUpload], now: datetime) -> list[Upload]:
        if not new:
            return []
        held = await self._find_held(uow, batch.user_id, new)
        uploads = [
            self._row(batch.user_id, entry, held.get(number), batch_id=batch.id, version=batch.version + 1, now=now)
            for number, entry in enumerate(new)
        ]
        await uow.receiving.insert(
            uploads,
            new,
            user_id=batch.user_id,
            batch_id=batch.id,
            version=batch.version + 1,
            now=now,
            expires_at=batch.expires_at,
        )
        return uploads

    async def _find_held(self, uow: UnitOfWork, owner: UUID, new: Sequence[NewUpload]) -> dict[int, Place]:
        """Return where bytes lie that need not be sent, by the place of their entry; the sweeper is kept from them."""
        asked = [
            (number, (entry.sha256, entry.size_bytes))
            for number, entry in enumerate(new)
            if entry.sha256 is not None and entry.size_bytes is not None
        ]
        if not asked:
            return {}
        found = await uow.receiving.held(owner, [content for _, content in asked])
        alive = await uow.objects.hold({object_id for object_id, _ in found.values()}) if found else set()
        return {asked[place][0]: where for place, where in found.items() if where[0] in alive}

    def _row(
        self, owner: UUID, entry: NewUpload, place: Place | None, *, batch_id: UUID | None, version: int, now: datetime
    ) -> Upload:
        return Upload(
            id=self._new_id(),
            user_id=owner,
            batch_id=batch_id,
            ref=entry.ref,
            filename=entry.filename,
            status=UploadStatus.PENDING if place else UploadStatus.RECEIVING,
            size_bytes=entry.size_bytes,
            received_bytes=(entry.size_bytes or 0) if place else 0,
            content_type=entry.content_type,
            detected_type=None,
            sha256=entry.sha256 if place else None,
            width=None,
            height=None,
            attempts=0,
            error=None,
            metadata=entry.metadata,
            object_id=place[0] if place else None,
            object_offset=place[1] if place else None,
            batch_version=version,
            created_at=now,
            updated_at=now,
            completed_at=None,
        )


def _declared(known: Receiving) -> Declared:
    action, offset = action_for(known)
    return Declared(known.upload, action, offset, fresh=False)


def _fresh(upload: Upload) -> Declared:
    have = upload.status is UploadStatus.PENDING
    return Declared(upload, Action.HAVE if have else Action.UPLOAD, upload.received_bytes, fresh=True)
