"""Uploads on their way in: declared with or without their size, then filled from door to door. The rules, pure.

A declared upload is `receiving` until all its bytes are there. One that was refused with its bytes (`failed`, with
nothing stored) takes them again. What is stored already is compared, never replaced.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol
from uuid import UUID

from app.domain.batch import BatchStatus
from app.domain.errors import (
    BatchClosedError,
    FileTooLargeError,
    InvalidManifestError,
    OffsetMismatchError,
    RefConflictError,
    SizeConflictError,
    SizeExceededError,
    UploadExpiredError,
    UploadGoneError,
)
from app.domain.limits import MAX_MANIFEST_ENTRIES
from app.domain.upload import Refusal, Upload, UploadStatus

_NAMED: Final = 20
"""So many refs are named in an error."""
_HOPELESS: Final = frozenset({"invalid-filename"})
"""Refusals that other bytes would not mend."""


Place = tuple[UUID, int]
"""An object, and an offset in it."""


@dataclass(frozen=True, slots=True)
class NewUpload:
    """What is declared of a file before its bytes come."""

    ref: str | None
    """The client's own name for it, unique in the batch."""
    filename: str
    size_bytes: int | None
    """None where it will be said later."""
    sha256: bytes | None = None
    """32 bytes; where it is given, other bytes are refused, and bytes that the owner has stored need not be sent."""
    content_type: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    partial: bool = False
    """A piece of a file to come: in no batch, never processed, gone when it expires."""


@dataclass(frozen=True, slots=True)
class Receiving:
    """An upload, and what matters while its bytes come."""

    upload: Upload
    declared_sha256: bytes | None
    partial: bool
    expires_at: datetime | None
    """From then on it takes no more bytes; the sweep fails it."""
    takeover: UUID | None
    """Another value than before: somebody waits for its writer to let go."""
    batch_status: BatchStatus | None
    """None where it is in no batch."""

    @property
    def whole(self) -> bool:
        """Whether all its bytes are there and known: it was accepted, or is a part that is complete."""
        if self.partial:
            return self.upload.size_bytes is not None and self.upload.received_bytes == self.upload.size_bytes
        return self.upload.sha256 is not None

    @property
    def refused(self) -> bool:
        """Whether it failed without bytes, and would take others."""
        upload = self.upload
        if upload.status is not UploadStatus.FAILED or upload.sha256 is not None:
            return False
        return upload.error is None or upload.error.code not in _HOPELESS


class Action(StrEnum):
    """What is left to do for a declared file."""

    UPLOAD = "upload"
    RESUME = "resume"
    HAVE = "have"


class Check(Protocol):
    """A checksum over one piece. Used by one thread at a time."""

    def update(self, data: bytes, /) -> None:
        """Take the next bytes of the piece."""

    def verify(self) -> None:
        """Return if they were the right ones. Raises ChecksumMismatchError."""


def check_entries(entries: Sequence[NewUpload], *, max_file_bytes: int) -> None:
    """Return if these may be declared together.

    Raises InvalidManifestError (too many, a ref twice, a negative size, a digest that is none) or FileTooLargeError.
    """
    if len(entries) > MAX_MANIFEST_ENTRIES:
        most = MAX_MANIFEST_ENTRIES
        raise InvalidManifestError(f"A manifest has at most {most} entries.", max_entries=most)
    seen: set[str] = set()
    twice = []
    for entry in entries:
        if entry.ref is not None:
            if entry.ref in seen:
                twice.append(entry.ref)
            seen.add(entry.ref)
        if entry.sha256 is not None and len(entry.sha256) != 32:  # noqa: PLR2004 - what SHA-256 has
            raise InvalidManifestError("A SHA-256 has 32 bytes.", refs=[entry.ref])
        if (entry.size_bytes or 0) < 0:
            raise InvalidManifestError("A size is 0 or more.", refs=[entry.ref])
    if twice:
        raise InvalidManifestError(f"The ref {twice[0]!r} is there twice.", refs=twice[:_NAMED])
    large = [entry.ref for entry in entries if (entry.size_bytes or 0) > max_file_bytes]
    if large:
        detail = f"A file is over {max_file_bytes} bytes."
        raise FileTooLargeError(detail, max_file_bytes=max_file_bytes, refs=large[:_NAMED])


def check_same(pairs: Iterable[tuple[NewUpload, Receiving]]) -> None:
    """Return if each entry is what was declared, or stored, under its ref. Raises RefConflictError, naming the refs."""
    other = [entry.ref for entry, known in pairs if not _same(entry, known)]
    if other:
        detail = f"There is another file under the ref {other[0]!r}: other size or other bytes. Nothing was changed."
        raise RefConflictError(detail, refs=other[:_NAMED])


def _same(entry: NewUpload, known: Receiving) -> bool:
    size = known.upload.size_bytes
    if entry.size_bytes is not None and size is not None and entry.size_bytes != size:
        return False
    digest = known.upload.sha256 or known.declared_sha256
    return entry.sha256 is None or digest is None or entry.sha256 == digest


def action_for(known: Receiving) -> tuple[Action, int]:
    """Return what is left to do for an upload, and at which offset."""
    if known.whole:
        return Action.HAVE, known.upload.received_bytes
    received = known.upload.received_bytes if known.upload.status is UploadStatus.RECEIVING else 0
    return (Action.RESUME if received else Action.UPLOAD), received


def check_open(known: Receiving, *, now: datetime) -> None:
    """Return if the upload takes bytes, or is whole.

    Raises BatchClosedError where its batch was cancelled, UploadGoneError where itself was, where it expired, or where
    its batch is gone.
    """
    if known.whole:
        return
    if known.batch_status is BatchStatus.CANCELLED:
        raise BatchClosedError("The batch is cancelled. Open a new one.", batch_status=known.batch_status)
    expired = known.upload.error is not None and known.upload.error.code == UploadExpiredError.code
    if expired or (known.expires_at is not None and known.expires_at <= now):
        raise UploadGoneError("The upload has expired. Declare it again in a new batch.")
    if known.upload.status is not UploadStatus.RECEIVING and not known.refused:
        raise UploadGoneError(f"The upload is {known.upload.status}.")
    if known.batch_status is None and not known.partial:
        raise UploadGoneError("The batch of the upload was deleted. Declare it again in a new one.")


def check_piece(known: Receiving, *, offset: int, length: int | None, final_size: int | None) -> None:
    """Return if a piece of `length` bytes (None: not known yet) may be written at `offset`.

    Raises OffsetMismatchError, SizeExceededError, or SizeConflictError for a `final_size` that cannot be.
    """
    upload = known.upload
    received = upload.received_bytes if upload.status is not UploadStatus.FAILED or known.whole else 0
    if offset != received:
        raise OffsetMismatchError(received)
    size = upload.size_bytes
    if final_size is not None:
        if size is not None and size != final_size and not known.refused:
            raise SizeConflictError(f"The upload was declared with {size} bytes.", size_bytes=size)
        if final_size < received:
            raise SizeConflictError(f"There are {received} bytes already.", received_bytes=received)
        size = final_size
    if size is not None and length is not None and offset + length > size:
        raise too_much(size)


def too_much(size: int) -> SizeExceededError:
    """Return the error for bytes past the declared size."""
    return SizeExceededError(f"The upload was declared with {size} bytes, and this is more.", size_bytes=size)


def accepted(upload: Upload, size: int, sha256: bytes, place: Place, *, version: int, now: datetime) -> Upload:
    """Return the upload with all its bytes, waiting to be processed."""
    return upload._replace(
        status=UploadStatus.PENDING,
        size_bytes=size,
        received_bytes=size,
        sha256=sha256,
        error=None,
        object_id=place[0],
        object_offset=place[1],
        batch_version=version,
        updated_at=now,
        completed_at=None,
    )


def refused(upload: Upload, why: Refusal, *, version: int, now: datetime) -> Upload:
    """Return the upload failed, and without its bytes."""
    return upload._replace(
        status=UploadStatus.FAILED,
        received_bytes=0,
        error=why,
        object_id=None,
        object_offset=None,
        batch_version=version,
        updated_at=now,
        completed_at=now,
    )


def moved(upload: Upload, received: int, object_id: UUID | None, *, version: int, now: datetime) -> Upload:
    """Return the upload `receiving`, with so many durable bytes in that object."""
    return upload._replace(
        status=UploadStatus.RECEIVING,
        received_bytes=received,
        error=None,
        object_id=object_id,
        object_offset=0 if object_id else None,
        batch_version=version,
        updated_at=now,
        completed_at=None,
    )
