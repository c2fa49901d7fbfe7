"""What owners do with batches and uploads: seal, cancel, delete, page; alone, and against each other."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest

from app.domain.batch import Batch, BatchStatus
from app.domain.errors import BatchClosedError, ContentUnavailableError, NotFoundError
from app.domain.ids import utc_now
from app.domain.upload import Refusal, Upload, UploadStatus
from app.ingest.arrival import Arrival
from app.ingest.submission import Submission
from tests.support.services import (
    LIMITS,
    OWNER,
    STRANGER,
    Services,
    holding,
    later,
    serving,
    someone_waiting,
)

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)

ALL: Final = list(UploadStatus)
PLACES: Final = {
    UploadStatus.PENDING: "pending_uploads",
    UploadStatus.PROCESSING: "processing_uploads",
    UploadStatus.COMPLETED: "successful_uploads",
    UploadStatus.FAILED: "failed_uploads",
    UploadStatus.RECEIVING: "receiving_uploads",
}


@pytest.fixture
async def services(database_url: str, tmp_path: Path) -> AsyncIterator[Services]:
    async with serving(database_url, tmp_path / "objects") as services:
        yield services
        assert await services.counted_wrong() == []


async def mixed(services: Services) -> tuple[Batch, dict[UploadStatus, Upload]]:
    """A batch with one upload in each state but `cancelled`; 111 bytes, 101 of them received."""
    batch = await services.open()
    refused = Arrival(0, "refused", None, Refusal("invalid-filename", "No."))
    arrivals = [refused, *services.files(b"x" * 1, b"x" * 10, b"x" * 90, b"x" * 10)]
    _, uploads = await services.group.submit(Submission(OWNER, batch.id, arrivals))
    failed, pending, processing, completed, receiving = uploads
    async with services.database.transaction() as connection:
        for upload, change in (
            (processing, "status = 'processing', attempts = 1, lease_expires_at = now() + interval '1 hour'"),
            (completed, "status = 'completed', attempts = 1, completed_at = now()"),
            (receiving, "status = 'receiving', received_bytes = 0"),
        ):
            await connection.execute(f"UPDATE uploads SET {change} WHERE id = $1", upload.id)
        await connection.execute(
            "UPDATE upload_batches SET pending_uploads = 1, processing_uploads = 1, receiving_uploads = 1,"
            " successful_uploads = 1, processed_uploads = 2, received_bytes = received_bytes - 10"
        )
    in_order = (failed, pending, processing, completed, receiving)
    found = [await services.uploads.get(OWNER, upload.id) for upload in in_order]
    assert await services.counted_wrong() == []
    return await services.batches.get(OWNER, batch.id), {upload.status: upload for upload in found}


async def statuses(services: Services, batch_id: UUID) -> list[UploadStatus]:
    page = await services.uploads.list_page(OWNER, batch_id, status=None, after=UUID(int=0), limit=1000)
    return sorted(upload.status for upload in page)


async def test_a_sealed_batch_takes_nothing_more_and_stays_sealed(services: Services) -> None:
    batch = await services.open()
    await services.add(batch, b"1")
    sealed = await services.batches.seal(OWNER, batch.id)
    assert sealed.sealed_at
    assert sealed.status is BatchStatus.PROCESSING
    assert await services.batches.seal(OWNER, batch.id) == sealed
    with pytest.raises(BatchClosedError):
        await services.add(batch, b"2")
    with pytest.raises(BatchClosedError):
        await services.batches.get_open(OWNER, batch.id)


async def test_sealing_an_empty_batch_completes_it(services: Services) -> None:
    sealed = await services.batches.seal(OWNER, (await services.open()).id)
    assert (sealed.status, sealed.total_uploads) == (BatchStatus.COMPLETED, 0)
    assert sealed.completed_at
    with pytest.raises(BatchClosedError):
        await services.batches.cancel(OWNER, sealed.id)


async def test_cancelling_moves_what_is_unfinished_and_nothing_else(services: Services) -> None:
    batch, uploads = await mixed(services)
    cancelled = await services.batches.cancel(OWNER, batch.id)
    assert (cancelled.status, cancelled.version) == (BatchStatus.CANCELLED, batch.version + 1)
    assert (cancelled.cancelled_uploads, cancelled.successful_uploads, cancelled.failed_uploads) == (3, 1, 1)
    assert cancelled.completed_at
    assert await statuses(services, batch.id) == ["cancelled"] * 3 + ["completed", "failed"]
    for status, upload in uploads.items():
        after = await services.uploads.get(OWNER, upload.id)
        moved = status in {UploadStatus.PENDING, UploadStatus.PROCESSING, UploadStatus.RECEIVING}
        assert after.batch_version == (cancelled.version if moved else upload.batch_version)
        assert (after.completed_at is not None) == (after.status in {"cancelled", "completed", "failed"})
    assert await services.batches.cancel(OWNER, batch.id) == cancelled
    for change in (services.add(batch, b"2"), services.batches.seal(OWNER, batch.id)):
        with pytest.raises(BatchClosedError):
            await change


@pytest.mark.parametrize("status", PLACES)
async def test_deleting_an_upload_counts_it_out(services: Services, status: UploadStatus) -> None:
    batch, uploads = await mixed(services)
    gone = uploads[status]
    await services.uploads.delete(OWNER, gone.id)
    after = await services.batches.get(OWNER, batch.id)
    changed = {
        "total_uploads": batch.total_uploads - 1,
        PLACES[status]: 0,
        "processed_uploads": batch.processed_uploads - (status in {"completed", "failed"}),
        "total_bytes": batch.total_bytes - (gone.size_bytes or 0),
        "received_bytes": batch.received_bytes - gone.received_bytes,
        "version": batch.version + 1,
        "updated_at": after.updated_at,
    }
    assert after == replace(batch, **changed)
    for again in (services.uploads.delete(OWNER, gone.id), services.uploads.get(OWNER, gone.id)):
        with pytest.raises(NotFoundError):
            await again


async def test_deleting_from_a_cancelled_batch_counts_out_too(services: Services) -> None:
    batch, uploads = await mixed(services)
    await services.batches.cancel(OWNER, batch.id)
    for upload in uploads.values():
        await services.uploads.delete(OWNER, upload.id)
    after = await services.batches.get(OWNER, batch.id)
    assert (after.status, after.total_uploads, after.cancelled_uploads) == (BatchStatus.CANCELLED, 0, 0)


async def test_deleting_the_last_unfinished_upload_finishes_a_sealed_batch(services: Services) -> None:
    batch = await services.open()
    pending, refused = await services.add(batch, b"1"), Arrival(0, "x", None, Refusal("invalid-filename", "No."))
    await services.group.submit(Submission(OWNER, batch.id, [refused], seals=True))
    await services.uploads.delete(OWNER, pending[0].id)
    after = await services.batches.get(OWNER, batch.id)
    assert (after.status, after.total_uploads, after.failed_uploads) == (BatchStatus.FAILED, 1, 1)


async def test_a_deleted_batch_leaves_its_uploads_with_their_bytes(services: Services) -> None:
    batch, uploads = await mixed(services)
    await services.batches.delete(OWNER, batch.id, with_uploads=False)
    for missing in (
        services.batches.get(OWNER, batch.id),
        services.batches.delete(OWNER, batch.id, with_uploads=True),
        services.uploads.list_page(OWNER, batch.id, status=None, after=UUID(int=0), limit=1),
    ):
        with pytest.raises(NotFoundError):
            await missing
    unfinished = uploads.pop(UploadStatus.RECEIVING)
    cancelled = await services.uploads.get(OWNER, unfinished.id)
    assert (cancelled.status, cancelled.batch_version) == (UploadStatus.CANCELLED, unfinished.batch_version + 1)
    for upload in uploads.values():
        after = await services.uploads.get(OWNER, upload.id)
        # Whoever has its ETag learns that it is in no batch any more.
        assert after == upload._replace(
            batch_id=None, batch_version=upload.batch_version + 1, updated_at=after.updated_at
        )
    assert await services.content(uploads[UploadStatus.PENDING].id) == b"x"
    with pytest.raises(ContentUnavailableError):
        await services.content(uploads[UploadStatus.FAILED].id)
    await services.uploads.delete(OWNER, uploads[UploadStatus.PENDING].id)
    assert await services.value("SELECT count(*) FROM uploads") == 4


async def test_a_batch_deleted_with_its_uploads_leaves_neither(services: Services) -> None:
    batch, uploads = await mixed(services)
    other = await services.open()
    (stays,) = await services.add(other, b"stays")
    await services.batches.delete(OWNER, batch.id, with_uploads=True)
    for upload in uploads.values():
        with pytest.raises(NotFoundError):
            await services.uploads.get(OWNER, upload.id)
    assert await services.content(stays.id) == b"stays"


async def test_strangers_find_nothing_and_change_nothing(services: Services) -> None:
    batch, uploads = await mixed(services)
    upload = uploads[UploadStatus.PENDING]
    for attempt in (
        services.batches.get(STRANGER, batch.id),
        services.batches.get_open(STRANGER, batch.id),
        services.batches.seal(STRANGER, batch.id),
        services.batches.cancel(STRANGER, batch.id),
        services.batches.delete(STRANGER, batch.id, with_uploads=True),
        services.uploads.get(STRANGER, upload.id),
        services.uploads.delete(STRANGER, upload.id),
        services.uploads.open_content(STRANGER, upload.id),
        services.uploads.list_page(STRANGER, batch.id, status=None, after=UUID(int=0), limit=1),
    ):
        with pytest.raises(NotFoundError):
            await attempt
    assert await services.batches.list_page(STRANGER, status=None, before=(later(9), UUID(int=0)), limit=9) == []
    assert await services.batches.get(OWNER, batch.id) == batch


async def test_an_expired_batch_takes_nothing_more(database_url: str, tmp_path: Path) -> None:
    moment = utc_now()
    async with serving(database_url, tmp_path / "objects", clock=lambda: moment) as services:
        batch = await services.open()
        await services.add(batch, b"1")
        moment += LIMITS.batch_lifetime - timedelta(microseconds=1)
        await services.add(batch, b"2")
        moment += timedelta(microseconds=1)
        with pytest.raises(BatchClosedError):
            await services.add(batch, b"3")
        assert (await services.batches.seal(OWNER, batch.id)).total_uploads == 2


async def test_who_comes_second_sees_what_the_first_did(services: Services) -> None:
    """Each change waits for the batch's lock, and then acts on the batch as it has become."""
    for first, second, refusal in (
        ("cancel", "add", BatchClosedError),
        ("seal", "add", BatchClosedError),
        ("delete", "add", NotFoundError),
        ("delete", "cancel", NotFoundError),
        ("delete", "seal", NotFoundError),
        ("delete", "delete", NotFoundError),
        ("cancel", "seal", BatchClosedError),
        ("delete all", "delete upload", NotFoundError),
        ("cancel", "delete upload", None),
        ("delete", "delete upload", None),
    ):
        batch = await services.open()
        (upload,) = await services.add(batch, b"1")
        acts = {
            "add": lambda batch=batch: services.add(batch, b"2"),
            "seal": lambda batch=batch: services.batches.seal(OWNER, batch.id),
            "cancel": lambda batch=batch: services.batches.cancel(OWNER, batch.id),
            "delete": lambda batch=batch: services.batches.delete(OWNER, batch.id, with_uploads=False),
            "delete all": lambda batch=batch: services.batches.delete(OWNER, batch.id, with_uploads=True),
            "delete upload": lambda upload=upload: services.uploads.delete(OWNER, upload.id),
        }
        async with holding(services.dsn, "SELECT FROM upload_batches FOR UPDATE") as holder:
            one = asyncio.create_task(acts[first]())
            await someone_waiting(holder)
            two = asyncio.create_task(acts[second]())
            await asyncio.sleep(0.03)
        await one
        if refusal:
            with pytest.raises(refusal):
                await two
        else:
            await two
            with pytest.raises(NotFoundError):
                await services.uploads.get(OWNER, upload.id)
        assert await services.counted_wrong() == [], (first, second)
