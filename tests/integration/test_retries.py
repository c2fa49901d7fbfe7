"""Another attempt: by itself after an error that may pass, or because the owner asks; and what is kept of each."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from app.domain.batch import Batch, BatchStatus
from app.domain.errors import BatchClosedError, NotFoundError
from app.domain.ids import new_id
from app.domain.upload import Refusal, Upload, UploadStatus
from app.ingest.arrival import Arrival
from app.ingest.submission import Submission
from tests.support.services import OWNER, STRANGER, Services, serving
from tests.support.workshops import ScriptedWorkshop, final, found, out_of_reach, passing

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)

EXPIRE = "UPDATE uploads SET lease_expires_at = now() - interval '1 second' WHERE status = 'processing'"
DUE = "UPDATE uploads SET retry_at = now() - interval '1 second' WHERE retry_at IS NOT NULL"
JOBS = "SELECT count(*) FROM boatload_queue.pgqueuer"
TRUNCATE = "TRUNCATE boatload_queue.pgqueuer"


@pytest.fixture
def workshop() -> ScriptedWorkshop:
    return ScriptedWorkshop()


@pytest.fixture
async def services(database_url: str, tmp_path: Path, workshop: ScriptedWorkshop) -> AsyncIterator[Services]:
    options = {"sandbox": workshop, "max_attempts": 3, "retry_first": timedelta(minutes=1), "worker": "host:7"}
    async with serving(database_url, tmp_path / "objects", **options) as services:
        yield services
        assert await services.counted_wrong() == []


async def sealed(services: Services, *contents: bytes) -> tuple[Batch, list[Upload]]:
    batch = await services.open()
    uploads = await services.add(batch, *contents)
    return await services.batches.seal(OWNER, batch.id), uploads


async def process(services: Services, *uploads: Upload) -> None:
    await services.pipeline.process([upload.id for upload in uploads])


async def die_with(services: Services, workshop: ScriptedWorkshop, upload: Upload) -> None:
    """A worker takes the upload and is never heard of again; its lease runs out."""
    workshop.hold(upload)
    working = asyncio.create_task(process(services, upload))
    async with asyncio.timeout(20):
        while upload.id not in workshop.at_work:
            await asyncio.sleep(0.01)
    working.cancel()
    await asyncio.wait([working])
    workshop.slow.clear()
    await services.rows(EXPIRE)


async def now(services: Services, upload: Upload) -> tuple[UploadStatus, int]:
    one = await services.uploads.get(OWNER, upload.id)
    return one.status, one.attempts


async def history(services: Services, upload: Upload) -> list[tuple[int, str, str | None]]:
    attempts = await services.uploads.list_attempts(OWNER, upload.id, after=0, limit=100)
    return [(one.number, one.error.code, one.worker) for one in attempts]


async def test_an_error_that_may_pass_is_tried_again_when_its_wait_is_over(
    services: Services, workshop: ScriptedWorkshop
) -> None:
    batch, (upload, other) = await sealed(services, b"1", b"2")
    workshop.ends = lambda one: passing(one) if one.id == upload.id else found(one)
    await process(services, upload, other)
    await services.rows(TRUNCATE)
    assert await now(services, upload) == (UploadStatus.PENDING, 1)
    assert await now(services, other) == (UploadStatus.COMPLETED, 1)
    waiting = await services.value("SELECT retry_at - now() FROM uploads WHERE id = $1", upload.id)
    assert timedelta(seconds=20) < waiting <= timedelta(seconds=30)  # type: ignore[operator]
    assert await services.sweeper.requeue() == 0
    await process(services, upload)
    assert await now(services, upload) == (UploadStatus.PENDING, 1), "a claim passes over what is not due"
    await services.rows(DUE)
    assert await services.sweeper.requeue() == 1
    assert await services.sweeper.requeue() == 0
    assert await services.value(JOBS) == 1
    workshop.ends = found
    await process(services, upload)
    assert await now(services, upload) == (UploadStatus.COMPLETED, 2)
    assert await history(services, upload) == [(1, "processor-crashed", "host:7")]
    assert (await services.batches.get(OWNER, batch.id)).status is BatchStatus.COMPLETED


async def test_after_the_last_attempt_the_last_reason_stays(services: Services, workshop: ScriptedWorkshop) -> None:
    batch, (upload,) = await sealed(services, b"1")
    workshop.ends = passing
    for _ in range(4):
        await process(services, upload)
        await services.rows(DUE)
    failed = await services.uploads.get(OWNER, upload.id)
    assert (failed.status, failed.attempts) == (UploadStatus.FAILED, 3)
    assert failed.error == Refusal("processor-crashed", "Broke at attempt 3.")
    assert [number for number, _, _ in await history(services, upload)] == [1, 2, 3]
    assert (await services.batches.get(OWNER, batch.id)).status is BatchStatus.FAILED


async def test_an_error_that_does_not_pass_fails_at_once(services: Services, workshop: ScriptedWorkshop) -> None:
    _, (upload,) = await sealed(services, b"1")
    workshop.ends = final
    await process(services, upload)
    assert await now(services, upload) == (UploadStatus.FAILED, 1)
    assert await history(services, upload) == [(1, "processor-crashed", "host:7")]


async def test_a_reason_that_was_once_given_outlives_workers_that_went_silent(
    services: Services, workshop: ScriptedWorkshop
) -> None:
    _, (upload,) = await sealed(services, b"1")
    workshop.ends = passing
    await process(services, upload)
    await services.rows(DUE)
    for _ in range(2):
        await die_with(services, workshop, upload)
    await process(services, upload)
    failed = await services.uploads.get(OWNER, upload.id)
    assert (failed.status, failed.attempts) == (UploadStatus.FAILED, 3)
    assert failed.error == Refusal("processor-crashed", "Broke at attempt 1.")
    lost = [(number, "worker-lost", None) for number in (2, 3)]
    assert await history(services, upload) == [(1, "processor-crashed", "host:7"), *lost]


async def test_bytes_out_of_reach_are_waited_for_and_never_given_up_on(
    services: Services, workshop: ScriptedWorkshop
) -> None:
    _, (upload,) = await sealed(services, b"1")
    workshop.ends = out_of_reach
    waits: list[timedelta] = []
    for _ in range(8):
        await process(services, upload)
        waits += [row[0] for row in await services.rows("SELECT retry_at - now() FROM uploads")]
        await services.rows(DUE)
    assert await now(services, upload) == (UploadStatus.PENDING, 8)
    assert waits[0] < timedelta(seconds=31) < waits[1] < timedelta(seconds=61) < waits[2]
    assert max(waits) <= timedelta(minutes=5)
    workshop.ends = passing
    for _ in range(3):
        await process(services, upload)
        await services.rows(DUE)
    assert await now(services, upload) == (UploadStatus.FAILED, 11), "three attempts counted"


async def test_a_retry_takes_a_finished_batch_back_to_processing(
    services: Services, workshop: ScriptedWorkshop
) -> None:
    batch, uploads = await sealed(services, b"1", b"2", b"3")
    workshop.ends = final
    await process(services, *uploads)
    failed = await services.batches.get(OWNER, batch.id)
    assert (failed.status, failed.failed_uploads) == (BatchStatus.FAILED, 3)
    await services.rows(TRUNCATE)
    again = await services.batches.retry(OWNER, batch.id, None)
    assert (again.status, again.pending_uploads, again.processed_uploads) == (BatchStatus.PROCESSING, 3, 0)
    assert (again.completed_at, again.error_message) == (None, None)
    assert again.sealed_at == failed.sealed_at
    assert again.version == failed.version + 1
    assert await services.batches.get(OWNER, batch.id) == again
    one = await services.uploads.get(OWNER, uploads[0].id)
    assert (one.status, one.error, one.completed_at) == (UploadStatus.PENDING, None, None)
    assert one.batch_version == again.version
    assert await services.value(JOBS) == 1
    workshop.ends = found
    await process(services, *uploads)
    done = await services.batches.get(OWNER, batch.id)
    assert (done.status, done.successful_uploads) == (BatchStatus.COMPLETED, 3)
    assert await history(services, uploads[0]) == [(1, "processor-crashed", "host:7")]
    assert await now(services, uploads[0]) == (UploadStatus.COMPLETED, 2)


async def test_each_retry_is_a_round_of_its_own(services: Services, workshop: ScriptedWorkshop) -> None:
    batch, (upload,) = await sealed(services, b"1")
    workshop.ends = passing
    for attempts in (3, 6, 9):
        for _ in range(4):
            await process(services, upload)
            await services.rows(DUE)
        assert await now(services, upload) == (UploadStatus.FAILED, attempts)
        await services.batches.retry(OWNER, batch.id, [upload.id])
    for _ in range(3):
        await die_with(services, workshop, upload)
    await process(services, upload)
    exhausted = await services.uploads.get(OWNER, upload.id)
    assert exhausted.error
    assert exhausted.error.code == "attempts-exhausted", "reasons of earlier rounds are past"
    assert len(await history(services, upload)) == 12


async def test_only_what_was_chosen_and_has_failed_with_its_bytes_is_retried(
    services: Services, workshop: ScriptedWorkshop
) -> None:
    batch = await services.open()
    refused = Arrival(0, "refused", None, Refusal("invalid-filename", "No."))
    arrivals = [refused, *services.files(b"1", b"2", b"3")]
    _, (no_bytes, good, bad, other) = await services.group.submit(Submission(OWNER, batch.id, arrivals, seals=True))
    workshop.ends = lambda one: found(one) if one.id == good.id else final(one)
    await process(services, good, bad, other)
    before = await services.batches.get(OWNER, batch.id)
    assert await services.batches.retry(OWNER, batch.id, []) == before
    assert await services.batches.retry(OWNER, batch.id, [no_bytes.id, good.id]) == before
    assert await services.batches.get(OWNER, batch.id) == before
    after = await services.batches.retry(OWNER, batch.id, [bad.id, bad.id, good.id, no_bytes.id])
    assert (after.pending_uploads, after.failed_uploads, after.successful_uploads) == (1, 2, 1)
    assert await now(services, bad) == (UploadStatus.PENDING, 1)
    assert await now(services, other) == (UploadStatus.FAILED, 1)
    workshop.ends = found
    await process(services, bad)
    assert (await services.batches.get(OWNER, batch.id)).status is BatchStatus.COMPLETED


async def test_a_retry_of_what_is_not_there_changes_nothing(services: Services, workshop: ScriptedWorkshop) -> None:
    batch, (upload,) = await sealed(services, b"1")
    _, (elsewhere,) = await sealed(services, b"2")
    workshop.ends = final
    await process(services, upload, elsewhere)
    before = await services.batches.get(OWNER, batch.id)
    for owner, batch_id, ids in (
        (OWNER, new_id(), None),
        (STRANGER, batch.id, None),
        (OWNER, batch.id, [upload.id, new_id()]),
        (OWNER, batch.id, [upload.id, elsewhere.id]),
    ):
        with pytest.raises(NotFoundError):
            await services.batches.retry(owner, batch_id, ids)
    assert await services.batches.get(OWNER, batch.id) == before


async def test_nothing_in_a_cancelled_batch_is_retried(services: Services, workshop: ScriptedWorkshop) -> None:
    batch = await services.open()
    failed, _ = await services.add(batch, b"1", b"2")
    workshop.ends = final
    await process(services, failed)
    before = await services.batches.cancel(OWNER, batch.id)
    chosen: list[UUID]
    for chosen in ([], [failed.id]):
        with pytest.raises(BatchClosedError):
            await services.batches.retry(OWNER, batch.id, chosen)
    assert await services.batches.get(OWNER, batch.id) == before


async def test_the_history_goes_with_its_upload(services: Services, workshop: ScriptedWorkshop) -> None:
    batch, uploads = await sealed(services, b"1", b"2")
    workshop.ends = final
    await process(services, *uploads)
    await services.uploads.delete(OWNER, uploads[0].id)
    assert await services.value("SELECT count(*) FROM upload_attempts") == 1
    with pytest.raises(NotFoundError):
        await services.uploads.list_attempts(OWNER, uploads[0].id, after=0, limit=9)
    await services.batches.delete(OWNER, batch.id, with_uploads=True)
    assert await services.value("SELECT count(*) FROM upload_attempts") == 0
