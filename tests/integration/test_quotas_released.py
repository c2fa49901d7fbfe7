"""Every way in which an owner comes to hold less, and what is then counted."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from app.domain.batch import Batch
from app.domain.errors import DigestMismatchError, QuotaExceededError
from app.domain.quota import Holding, Quota
from app.domain.receiving import NewUpload
from app.domain.upload import Upload, UploadStatus
from app.ingest.single import Body
from tests.support.quotas import KIB, LARGE, used
from tests.support.resuming import body, declare
from tests.support.services import OWNER, STRANGER, Services, later, pattern, serving

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)


@pytest.fixture
async def services(database_url: str, tmp_path: Path) -> AsyncIterator[Services]:
    async with serving(database_url, tmp_path / "objects") as services:
        yield services


async def delete_upload(services: Services, batch: Batch, upload: Upload) -> Holding:
    await services.uploads.delete(batch.user_id, upload.id)
    return Holding(0, 0, 1, 0)


async def delete_batch_and_uploads(services: Services, batch: Batch, _upload: Upload) -> Holding:
    await services.batches.delete(batch.user_id, batch.id, with_uploads=True)
    return Holding()


async def delete_batch(services: Services, batch: Batch, upload: Upload) -> Holding:
    await services.batches.delete(batch.user_id, batch.id, with_uploads=False)
    return Holding(0, 0, 0, 0) if upload.status is UploadStatus.RECEIVING else Holding(upload.received_bytes, 1, 0, 0)


async def delete_what_outlived_its_batch(services: Services, batch: Batch, upload: Upload) -> Holding:
    await services.batches.delete(batch.user_id, batch.id, with_uploads=False)
    await services.uploads.delete(batch.user_id, upload.id)
    return Holding()


async def cancel_batch(services: Services, batch: Batch, upload: Upload) -> Holding:
    await services.batches.cancel(batch.user_id, batch.id)
    return Holding() if upload.status is UploadStatus.RECEIVING else Holding(upload.received_bytes, 1, 0, 0)


async def terminate(services: Services, batch: Batch, upload: Upload) -> Holding:
    await services.resumable.terminate(batch.user_id, upload.id)
    return Holding(0, 0, 1, 0)


async def send_other_bytes(services: Services, batch: Batch, upload: Upload) -> Holding:
    if upload.status is not UploadStatus.RECEIVING:
        return Holding(upload.received_bytes, 1, 1, 0)
    size = (upload.size_bytes or 0) - upload.received_bytes
    with pytest.raises(DigestMismatchError):
        await services.single_files.put_content(
            batch.user_id, upload.id, Body(body(pattern(size, 9)), size), offset=upload.received_bytes
        )
    return Holding(0, 0, 1, 0)


Way = Callable[[Services, Batch, Upload], Awaitable[Holding]]
WAYS: tuple[Way, ...] = (
    delete_upload,
    delete_batch_and_uploads,
    delete_batch,
    delete_what_outlived_its_batch,
    cancel_batch,
    terminate,
    send_other_bytes,
)


@pytest.mark.parametrize("begun", ["declared", "begun", "stored"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_a_quota_is_released(services: Services, way: Way, begun: str) -> None:
    await services.quotas.begin(LARGE)
    batch = await services.open()
    content = pattern(9 * KIB, 1)
    upload = await declare(services, len(content), of=content, batch=batch)
    size = {"declared": 0, "begun": 4 * KIB, "stored": len(content)}[begun]
    if size:
        upload = await services.resumable.append(OWNER, upload.id, offset=0, body=body(content[:size]), length=size)
    assert await used(services) == Holding(len(content), 1, 1, int(begun != "stored"))
    assert await way(services, batch, upload) == await used(services)


async def test_a_quota_is_released_by_time(database_url: str, tmp_path: Path) -> None:
    hours = 0.0
    async with serving(database_url, tmp_path / "objects", clock=lambda: later(hours * 3600)) as services:
        await services.quotas.begin(LARGE)
        await declare(services, 100)
        part = await services.manifests.declare_part(OWNER, NewUpload(None, "part", 50, partial=True))
        await services.resumable.append(OWNER, part.id, offset=0, body=body(bytes(50)), length=50)
        await services.manifests.declare_part(STRANGER, NewUpload(None, "part", 70, partial=True))
        assert await used(services) == Holding(150, 2, 1, 2)
        assert await used(services, STRANGER) == Holding(70, 1, 0, 1)
        hours = timedelta(days=40) / timedelta(hours=1)
        assert await services.sweeper.expire_uploads() == 3
        assert await used(services) == Holding(0, 0, 1, 0)
        assert await used(services, STRANGER) == Holding()


async def test_a_refused_file_that_is_sent_again_counts_again(services: Services) -> None:
    await services.quotas.set(OWNER, Quota(bytes=10 * KIB, files=1))
    content = pattern(9 * KIB)
    upload = await declare(services, len(content), of=content)
    for _ in range(2):
        with pytest.raises(DigestMismatchError):
            await services.resumable.append(OWNER, upload.id, offset=0, body=body(bytes(9 * KIB)), length=9 * KIB)
        assert await used(services) == Holding(0, 0, 1, 0)
    other = await declare(services, 2 * KIB, ref="other")
    with pytest.raises(QuotaExceededError):
        await services.resumable.append(OWNER, upload.id, offset=0, body=body(content), length=len(content))
    await services.uploads.delete(OWNER, other.id)
    after = await services.resumable.append(OWNER, upload.id, offset=0, body=body(content), length=len(content))
    assert after.status is UploadStatus.PENDING
    assert (await used(services)).bytes == 9 * KIB
