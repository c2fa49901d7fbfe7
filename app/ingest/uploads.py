"""What an owner does with uploads: read, list, delete, and get their bytes back."""

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from app.db.pool import Database
from app.domain.batch import advance, tally
from app.domain.errors import ContentUnavailableError, NotFoundError, NoThumbnailError
from app.domain.guards import Guards
from app.domain.ids import Clock
from app.domain.processing_errors import ContentWithheldError
from app.domain.upload import Attempt, Upload, UploadStatus
from app.repositories.unit_of_work import reading, unit_of_work
from app.storage.base import ObjectReader, Store


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of an upload, open for reading. Whoever got it closes it."""

    filename: str
    size_bytes: int
    sha256: bytes
    _reader: ObjectReader
    _offset: int

    async def read(self, start: int, size: int) -> bytes:
        """Return exactly `size` bytes from `start` on, which must lie within. Raises StorageUnavailableError."""
        return await asyncio.to_thread(self._reader.read, self._offset + start, size)

    def close(self) -> None:
        """Let go of the object."""
        self._reader.close()


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """The thumbnail of an upload, which may be read, any number of times."""

    tag: str
    """Another one for another thumbnail; says nothing to anybody."""
    _store: Store
    _object_id: UUID
    _offset: int
    _size_bytes: int

    async def read(self) -> bytes:
        """Return all of it. Raises StorageUnavailableError."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> bytes:
        reader = self._store.open(self._object_id)
        try:
            return reader.read(self._offset, self._size_bytes)
        finally:
            reader.close()


class UploadService:
    """All methods are by owner: another's upload is NotFoundError. All may raise DatabaseUnavailableError."""

    def __init__(self, database: Database, store: Store, *, clock: Clock, guards: Guards) -> None:
        self._guards: Final = guards
        self._database: Final = database
        self._store: Final = store
        self._clock: Final = clock

    async def get(self, owner: UUID, upload_id: UUID) -> Upload:
        """Return an upload."""
        async with reading(self._database) as uow:
            upload = await uow.uploads.find(upload_id, owner)
        if upload is None:
            raise NotFoundError
        return upload

    async def list_attempts(self, owner: UUID, upload_id: UUID, *, after: int, limit: int) -> list[Attempt]:
        """Return those attempts at an upload that ended in an error, in their order, from behind number `after` on."""
        async with reading(self._database) as uow:
            if await uow.uploads.find(upload_id, owner) is None:
                raise NotFoundError
            return await uow.attempts.list_page(upload_id, after=after, limit=limit)

    async def list_page(
        self, owner: UUID, batch_id: UUID, *, status: UploadStatus | None, after: UUID, limit: int
    ) -> list[Upload]:
        """Return uploads of a batch in the order of their ids, from just behind `after` on."""
        async with reading(self._database) as uow:
            if await uow.batches.find(batch_id, owner) is None:
                raise NotFoundError
            return await uow.uploads.list_page(batch_id, owner, status=status, after=after, limit=limit)

    async def list_changed(
        self, owner: UUID, batch_id: UUID, *, after: tuple[int, UUID], limit: int
    ) -> tuple[list[Upload], int]:
        """Return uploads of a batch in the order of (batch_version, id), from just behind `after` on, and a version.

        Where there are fewer than `limit`, these are all that had changed up to that version of the batch.
        """
        async with reading(self._database) as uow:
            batch = await uow.batches.find(batch_id, owner)
            if batch is None:
                raise NotFoundError
            found = await uow.uploads.list_changed(batch_id, owner, after=after, until=batch.version, limit=limit)
        return found, batch.version

    async def open_content(self, owner: UUID, upload_id: UUID) -> Content:
        """Return the bytes of an upload, opened; the caller closes them.

        Raises ContentUnavailableError where they were never taken, ContentWithheldError where a guard has found them
        harmful or has not looked at them yet, StorageUnavailableError.
        """
        upload = await self.get(owner, upload_id)
        if upload.object_id is None or upload.object_offset is None or upload.sha256 is None:
            raise ContentUnavailableError("The bytes of this upload were never taken.")
        if self._guards.withholds(upload):
            raise ContentWithheldError("The bytes are not handed out: they were found harmful, or not looked at yet.")
        reader = await asyncio.to_thread(self._store.open, upload.object_id)
        return Content(upload.filename, upload.received_bytes, upload.sha256, reader, upload.object_offset)

    async def find_thumbnail(self, owner: UUID, upload_id: UUID) -> Thumbnail:
        """Return the thumbnail of an upload. Raises NoThumbnailError where it has none."""
        upload = await self.get(owner, upload_id)
        if upload.thumbnail_object_id is None or upload.thumbnail_offset is None or upload.thumbnail_bytes is None:
            raise NoThumbnailError("This upload has no thumbnail: it is no image, or was not processed.")
        place = upload.thumbnail_object_id.bytes + upload.thumbnail_offset.to_bytes(8)
        tag = hashlib.sha256(place).hexdigest()[:32]
        return Thumbnail(tag, self._store, upload.thumbnail_object_id, upload.thumbnail_offset, upload.thumbnail_bytes)

    async def delete(self, owner: UUID, upload_id: UUID, *, with_batch: bool = False) -> None:
        """Delete an upload, and count it out of its batch; its bytes follow with the next sweep.

        `with_batch`: the batch was opened for this upload alone, and goes with it as if it had never been.
        """
        upload = await self.get(owner, upload_id)
        async with unit_of_work(self._database) as uow:
            batches = await uow.batches.lock([upload.batch_id] if upload.batch_id else [])
            deleted = await uow.uploads.delete(upload_id, owner)
            if deleted is None:
                raise NotFoundError
            if deleted.batch_id and with_batch:
                await uow.batches.delete(batches[deleted.batch_id])
            elif deleted.batch_id:
                batch = advance(batches[deleted.batch_id], -tally([deleted]), now=self._clock())
                await uow.batches.save([batch])
