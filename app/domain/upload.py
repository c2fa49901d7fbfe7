"""An upload: one file of a batch, its bytes, its state, its results.

States: `receiving` → `pending` → `processing` → `completed` or `failed`; `cancelled` from any of the first three.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple
from uuid import UUID

from app.domain.errors import BoatloadError


class UploadStatus(StrEnum):
    """Where an upload stands."""

    RECEIVING = "receiving"
    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL_UPLOAD: Final = frozenset({UploadStatus.COMPLETED, UploadStatus.FAILED, UploadStatus.CANCELLED})


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an upload failed: an error's `code` and its sentence, as they are kept with the upload."""

    code: str
    detail: str

    @classmethod
    def of(cls, error: BoatloadError) -> "Refusal":
        """Return what is kept of `error`."""
        return cls(error.code, error.detail)


class Upload(NamedTuple):
    """One row of `uploads`. A tuple, because a thousand are made for one request, at half the price of a dataclass."""

    id: UUID
    user_id: UUID
    batch_id: UUID | None
    """None once the batch was deleted without its uploads."""
    ref: str | None
    """The client's own name for it, unique in the batch."""
    filename: str
    status: UploadStatus
    size_bytes: int | None
    """None where it is not known: the file was refused before its end."""
    received_bytes: int
    """How many bytes are durable."""
    content_type: str | None
    """What the client called it."""
    detected_type: str | None
    """What its content says it is; set by processing."""
    sha256: bytes | None
    """32 bytes; set once the bytes are whole."""
    width: int | None
    height: int | None
    attempts: int
    """How often processing was begun, ever; never falls."""
    error: Refusal | None
    """Set exactly while `failed`."""
    metadata: Mapping[str, object]
    object_id: UUID | None
    """The run of bytes that holds it, from `object_offset` on; both or neither."""
    object_offset: int | None
    batch_version: int
    """The batch's version when this row last changed."""
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    """Set exactly in a final state."""
    thumbnail_object_id: UUID | None = None
    """The run of bytes that holds its thumbnail, from `thumbnail_offset` on; all three or none."""
    thumbnail_offset: int | None = None
    thumbnail_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a thumbnail lies: durable, from `offset` on in the object."""

    object_id: UUID
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that ended in an error, as the history of an upload keeps it."""

    number: int
    """From 1 on, as `attempts` counts."""
    ended_at: datetime
    error: Refusal
    worker: str | None
    """Host and process that had it; None where it went silent."""
