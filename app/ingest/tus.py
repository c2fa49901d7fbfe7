"""What tus asks of uploads beyond their bytes: made in a batch or alone, in parts, put together, and told apart."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from app.domain.errors import (
    BatchClosedError,
    BoatloadError,
    FileTooLargeError,
    FinalUploadError,
    NotFoundError,
    PartsUnfinishedError,
    RefConflictError,
    UploadGoneError,
)
from app.domain.idempotency import Answer, RequestKey
from app.domain.ids import Clock
from app.domain.limits import Limits
from app.domain.receiving import NewUpload, Receiving, check_open
from app.ingest.idempotency import Idempotency
from app.ingest.manifest import Manifests
from app.ingest.resumable import Resumable

_CREATED: Final = 201
METADATA: Final = "tus"
"""Under this key an upload's metadata has what HEAD gives back: `metadata` and `concat`, each as it came."""


class TusUploads:
    """All by owner: another's upload is NotFoundError. All may raise DatabaseUnavailableError."""

    def __init__(
        self, manifests: Manifests, resumable: Resumable, idempotency: Idempotency, limits: Limits, *, clock: Clock
    ) -> None:
        self._manifests: Final = manifests
        self._idempotency: Final = idempotency
        self._resumable: Final = resumable
        self._limits: Final = limits
        self._clock: Final = clock

    async def create(
        self, owner: UUID, batch_id: UUID | None, new: NewUpload, key: RequestKey | None
    ) -> tuple[Receiving, bool]:
        """Declare an upload, and say whether it is new: one of the same ref, or by the same key, was made before.

        It is in the batch, or without one alone in a batch that is opened and sealed with it; a partial one is in none.
        One of no bytes is whole at once. Raises what Manifests.declare and Idempotency.once raise.
        """
        known, fresh = await self._declare(owner, batch_id, new, key)
        upload_id = known.upload.id
        if new.size_bytes == 0 and not known.whole:
            await self._resumable.append(owner, upload_id, offset=0, body=_nothing(), length=0)
            known = await self._resumable.look(owner, upload_id)
        return known, fresh

    async def concatenate(
        self, owner: UUID, batch_id: UUID | None, new: NewUpload, parts: Sequence[UUID], key: RequestKey | None
    ) -> Receiving:
        """Make an upload of whole partial ones, in that order; these stay as they are, until they expire.

        Where it cannot be made nothing of it is left. Raises NotFoundError where one of them is not there or no partial
        upload, PartsUnfinishedError, FileTooLargeError, RefConflictError where the ref stands for others, and what
        Manifests.declare and Idempotency.once raise.
        """
        size = 0
        for part in parts:
            known = await self._resumable.look(owner, part)
            if not known.partial:
                raise NotFoundError
            if not known.whole:
                raise PartsUnfinishedError("Not every upload to be put together is whole.", part=str(part))
            size += known.upload.received_bytes
        if size > self._limits.max_file_bytes:
            limit = self._limits.max_file_bytes
            raise FileTooLargeError(f"The file is over {limit} bytes.", max_file_bytes=limit)
        known, fresh = await self._declare(owner, batch_id, new, key)
        if told(known.upload.metadata, "concat") != told(new.metadata, "concat"):
            raise RefConflictError("There is another file under that ref. Nothing was changed.", refs=[new.ref])
        if known.whole:
            return known
        try:
            await self._resumable.concatenate(owner, known.upload.id, parts)
        except BoatloadError:
            if fresh:
                await self._resumable.terminate(owner, known.upload.id, with_batch=batch_id is None)
            raise
        return await self._resumable.look(owner, known.upload.id)

    async def settle(self, owner: UUID, upload_id: UUID) -> Receiving:
        """Return an upload with the offset that stays: whoever still writes it is stopped.

        Raises NotFoundError, UploadGoneError where it will never be whole, UploadLockedError.
        """
        known = await self._resumable.settle(owner, upload_id)
        self._check_alive(known)
        return known

    async def look(self, owner: UUID, upload_id: UUID) -> Receiving:
        """Return an upload that is to take bytes. Raises NotFoundError, FinalUploadError, UploadGoneError."""
        known = await self._resumable.look(owner, upload_id)
        if (told(known.upload.metadata, "concat") or "partial") != "partial":
            raise FinalUploadError
        self._check_alive(known)
        return known

    async def _declare(
        self, owner: UUID, batch_id: UUID | None, new: NewUpload, key: RequestKey | None
    ) -> tuple[Receiving, bool]:
        """Declare an upload once for the key; a key whose upload was deleted since makes another."""
        fresh = False

        async def declare() -> UUID:
            nonlocal fresh
            if new.partial:
                fresh = True
                return (await self._manifests.declare_part(owner, new)).id
            _, [declared] = await self._manifests.declare(owner, batch_id, [new], seal=batch_id is None)
            fresh = declared.fresh
            return declared.upload.id

        async def work() -> Answer:
            return Answer(_CREATED, {}, (await declare()).bytes)

        if key is None:
            return await self._resumable.look(owner, await declare()), fresh
        made = UUID(bytes=(await self._idempotency.once(key, work)).body)
        try:
            return await self._resumable.look(owner, made), fresh
        except NotFoundError:
            await self._idempotency.forget(key)
            made = UUID(bytes=(await self._idempotency.once(key, work)).body)
            return await self._resumable.look(owner, made), fresh

    def _check_alive(self, known: Receiving) -> None:
        """Return if the upload takes bytes or is whole; to a tus client a closed batch is an upload that is gone."""
        try:
            check_open(known, now=self._clock())
        except BatchClosedError as error:
            raise UploadGoneError(error.detail) from error


def told(metadata: Mapping[str, object], key: str) -> str | None:
    """Return what an upload was created with, of `metadata` and `concat`."""
    kept: Any = metadata.get(METADATA)
    return kept.get(key) if isinstance(kept, dict) else None


def to_be_told(metadata: str, concat: str | None) -> dict[str, object]:
    """Return the metadata of an upload for which `told` says these."""
    kept = {key: value for key, value in (("metadata", metadata), ("concat", concat)) if value}
    return {METADATA: kept} if kept else {}


async def _nothing() -> AsyncIterator[bytes]:
    empty: tuple[bytes, ...] = ()
    for piece in empty:
        yield piece
