"""A batch, and the one way its counts move.

States: `pending` (nothing has arrived) → `processing` → `completed` | `failed` | `cancelled`. At every committed moment
`total = receiving + pending + processing + successful + failed + cancelled` and `processed = successful + failed`; the
database holds both as CHECK constraints, and `advance` is the only code that computes them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from app.domain.errors import BatchClosedError, BatchFullError, TooManyUploadsError
from app.domain.upload import Upload, UploadStatus


class BatchStatus(StrEnum):
    """Where a batch stands."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL_BATCH: Final = frozenset({BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.CANCELLED})
_NO_UPLOADS: Final = dict.fromkeys(UploadStatus, 0)


@dataclass(frozen=True, slots=True)
class Batch:
    """One row of `upload_batches`."""

    id: UUID
    user_id: UUID
    label: str | None
    status: BatchStatus
    expected_uploads: int | None
    """It seals itself when this many are in it."""
    total_uploads: int
    receiving_uploads: int
    pending_uploads: int
    processing_uploads: int
    processed_uploads: int
    successful_uploads: int
    failed_uploads: int
    cancelled_uploads: int
    total_bytes: int
    """Sum of the sizes that are known."""
    received_bytes: int
    """Sum of the bytes that are durable."""
    error_message: str | None
    metadata: Mapping[str, object]
    version: int
    """Raised by each change: ETag, event id and delta cursor."""
    created_at: datetime
    started_at: datetime | None
    """When the first upload joined."""
    sealed_at: datetime | None
    completed_at: datetime | None
    """Set exactly in a final state."""
    updated_at: datetime
    expires_at: datetime | None

    @property
    def unfinished_uploads(self) -> int:
        """How many have not come to their end."""
        return self.receiving_uploads + self.pending_uploads + self.processing_uploads


@dataclass(frozen=True, slots=True)
class Tally:
    """How many uploads of each state, and how many bytes, a change adds to a batch. Negative: takes away."""

    receiving: int = 0
    pending: int = 0
    processing: int = 0
    successful: int = 0
    failed: int = 0
    cancelled: int = 0
    total_bytes: int = 0
    received_bytes: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        """Return both changes as one."""
        return Tally(
            self.receiving + other.receiving,
            self.pending + other.pending,
            self.processing + other.processing,
            self.successful + other.successful,
            self.failed + other.failed,
            self.cancelled + other.cancelled,
            self.total_bytes + other.total_bytes,
            self.received_bytes + other.received_bytes,
        )

    def __neg__(self) -> "Tally":
        """Return the change that undoes this one."""
        return Tally(
            -self.receiving,
            -self.pending,
            -self.processing,
            -self.successful,
            -self.failed,
            -self.cancelled,
            -self.total_bytes,
            -self.received_bytes,
        )


def new_batch(
    batch_id: UUID,
    user_id: UUID,
    *,
    now: datetime,
    expires_at: datetime,
    label: str | None = None,
    expected_uploads: int | None = None,
    metadata: Mapping[str, object] | None = None,
) -> Batch:
    """Return an empty batch."""
    return Batch(
        id=batch_id,
        user_id=user_id,
        label=label,
        status=BatchStatus.PENDING,
        expected_uploads=expected_uploads,
        total_uploads=0,
        receiving_uploads=0,
        pending_uploads=0,
        processing_uploads=0,
        processed_uploads=0,
        successful_uploads=0,
        failed_uploads=0,
        cancelled_uploads=0,
        total_bytes=0,
        received_bytes=0,
        error_message=None,
        metadata=metadata or {},
        version=1,
        created_at=now,
        started_at=None,
        sealed_at=None,
        completed_at=None,
        updated_at=now,
        expires_at=expires_at,
    )


def tally(uploads: Iterable[Upload]) -> Tally:
    """Count rows."""
    counts = _NO_UPLOADS.copy()
    total_bytes = received_bytes = 0
    for upload in uploads:
        counts[upload.status] += 1
        total_bytes += upload.size_bytes or 0
        received_bytes += upload.received_bytes
    return Tally(
        counts[UploadStatus.RECEIVING],
        counts[UploadStatus.PENDING],
        counts[UploadStatus.PROCESSING],
        counts[UploadStatus.COMPLETED],
        counts[UploadStatus.FAILED],
        counts[UploadStatus.CANCELLED],
        total_bytes,
        received_bytes,
    )


def admit(batch: Batch, count: int, *, max_files: int, now: datetime) -> None:
    """Say whether `count` more uploads may join.

    Raises BatchClosedError (sealed, finished, cancelled or expired), TooManyUploadsError (more than expected) or
    BatchFullError (more than `max_files`).
    """
    if batch.status in FINAL_BATCH:
        raise BatchClosedError(f"The batch is {batch.status}. Open a new one.", batch_status=batch.status)
    if batch.sealed_at is not None:
        raise BatchClosedError("The batch is sealed. Open a new one.", batch_status=batch.status)
    if batch.expires_at is not None and batch.expires_at <= now:
        raise BatchClosedError("The batch has expired. Open a new one.", batch_status=batch.status)
    after = batch.total_uploads + count
    if batch.expected_uploads is not None and after > batch.expected_uploads:
        raise TooManyUploadsError(
            f"The batch was opened for {batch.expected_uploads} files and would hold {after}.",
            expected_uploads=batch.expected_uploads,
        )
    if after > max_files:
        raise BatchFullError(f"A batch holds at most {max_files} files.", max_files_per_batch=max_files)


def advance(batch: Batch, delta: Tally, *, now: datetime, seal: bool = False) -> Batch:
    """Return the batch one version on: counts moved by `delta`, sealed if asked or if all that was expected is there.

    It finishes when it is sealed and every upload is processed: `completed` if anything succeeded or it is empty, else
    `failed`; where some were cancelled and all others are processed, `cancelled`. A final state stays.
    """
    receiving = batch.receiving_uploads + delta.receiving
    pending = batch.pending_uploads + delta.pending
    processing = batch.processing_uploads + delta.processing
    successful = batch.successful_uploads + delta.successful
    failed = batch.failed_uploads + delta.failed
    cancelled = batch.cancelled_uploads + delta.cancelled
    processed = successful + failed
    total = receiving + pending + processing + processed + cancelled
    if total == batch.expected_uploads:
        seal = True
    moved = replace(
        batch,
        total_uploads=total,
        receiving_uploads=receiving,
        pending_uploads=pending,
        processing_uploads=processing,
        processed_uploads=processed,
        successful_uploads=successful,
        failed_uploads=failed,
        cancelled_uploads=cancelled,
        total_bytes=batch.total_bytes + delta.total_bytes,
        received_bytes=batch.received_bytes + delta.received_bytes,
        version=batch.version + 1,
        updated_at=now,
        started_at=batch.started_at or (now if total else None),
        sealed_at=batch.sealed_at or (now if seal else None),
    )
    return _settle(moved, now)


def cancel(batch: Batch, delta: Tally, *, now: datetime) -> Batch:
    """Return the batch cancelled; `delta` moves what was unfinished to `cancelled`.

    Where it leaves something unfinished, the batch is sealed, and will be cancelled at its end. Raises BatchClosedError
    where it is completed or failed.
    """
    if batch.status in {BatchStatus.COMPLETED, BatchStatus.FAILED}:
        raise BatchClosedError(f"The batch is {batch.status}; there is nothing to cancel.", batch_status=batch.status)
    moved = advance(batch, delta, now=now)
    if moved.unfinished_uploads:
        return replace(moved, sealed_at=moved.sealed_at or now)
    return replace(moved, status=BatchStatus.CANCELLED, completed_at=now, error_message=None)


def leave(batch: Batch, left: Tally, *, now: datetime) -> Batch:
    """Return the batch, which is being deleted, without these uploads, and in the state that it was in."""
    moved = advance(batch, -left, now=now)
    return replace(moved, status=batch.status, completed_at=batch.completed_at, error_message=batch.error_message)


def progress_percentage(batch: Batch) -> float:
    """Return processed / total in percent, cut off behind two places; 0 for an empty batch."""
    total = batch.total_uploads
    return 10_000 * batch.processed_uploads // total / 100 if total else 0.0


def check_retry(batch: Batch) -> None:
    """Raise BatchClosedError where nothing of the batch may be tried again: it was cancelled."""
    if batch.status is BatchStatus.CANCELLED:
        raise BatchClosedError("The batch is cancelled; nothing in it is tried again.", batch_status=batch.status)


def reopen(batch: Batch) -> Batch:
    """Return a batch in which something is to be done after it was finished: back in `processing`, sealed as it was.

    To be advanced; see `advance`. Raises BatchClosedError where it was cancelled.
    """
    check_retry(batch)
    if batch.status in FINAL_BATCH:
        return replace(batch, status=BatchStatus.PROCESSING, completed_at=None, error_message=None)
    return batch


def retry(batch: Batch, count: int, *, now: datetime) -> Batch:
    """Return the batch with `count` > 0 failed uploads pending again. Raises BatchClosedError as `reopen` does."""
    return advance(reopen(batch), Tally(failed=-count, pending=count), now=now)


def _settle(batch: Batch, now: datetime) -> Batch:
    """Return the batch in the state that its counts and its seal call for."""
    if batch.status in FINAL_BATCH:
        return batch
    if batch.sealed_at is not None and batch.processed_uploads == batch.total_uploads:
        if batch.successful_uploads or not batch.total_uploads:
            return replace(batch, status=BatchStatus.COMPLETED, completed_at=now)
        message = f"None of the {batch.total_uploads} files succeeded."
        return replace(batch, status=BatchStatus.FAILED, completed_at=now, error_message=message)
    if batch.sealed_at is not None and batch.cancelled_uploads and not batch.unfinished_uploads:
        return replace(batch, status=BatchStatus.CANCELLED, completed_at=now)
    if batch.status is BatchStatus.PENDING and batch.total_uploads:
        return replace(batch, status=BatchStatus.PROCESSING)
    return batch
