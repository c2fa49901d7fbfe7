"""Batches and uploads as the rules see them, made from nothing."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from app.domain.batch import Batch, new_batch
from app.domain.upload import FINAL_UPLOAD, Refusal, Upload, UploadStatus

NOW: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
OWNER: Final = UUID(int=7)
LIFETIME: Final = timedelta(days=30)
UNKNOWN: Final = "019ab3c4-5d6e-7f80-9a1b-2c3d4e5f6071"
"""An id that nothing has. The same each time: processes that share the tests out must agree on their names."""


def make_batch(**changes: Any) -> Batch:  # noqa: ANN401 - the fields of a Batch
    """An empty, open batch, but for `changes`."""
    empty = new_batch(UUID(int=1), OWNER, now=NOW, expires_at=NOW + LIFETIME)
    return replace(empty, **changes)


def make_upload(status: UploadStatus, *, number: int = 1, **changes: Any) -> Upload:  # noqa: ANN401 - as above
    """An upload of 10 bytes in that state, but for `changes`."""
    stored = status is not UploadStatus.RECEIVING
    upload = Upload(
        id=UUID(int=number),
        user_id=OWNER,
        batch_id=UUID(int=1),
        ref=None,
        filename=f"{number}.txt",
        status=status,
        size_bytes=10,
        received_bytes=10 if stored else 0,
        content_type="text/plain",
        detected_type=None,
        sha256=bytes(32) if stored else None,
        width=None,
        height=None,
        attempts=0,
        error=Refusal("processor-crashed", "It could not be read.") if status is UploadStatus.FAILED else None,
        metadata={},
        object_id=UUID(int=2) if stored else None,
        object_offset=0 if stored else None,
        batch_version=1,
        created_at=NOW,
        updated_at=NOW,
        completed_at=NOW if status in FINAL_UPLOAD else None,
    )
    return upload._replace(**changes)
