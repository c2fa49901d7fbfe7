"""Leases: kept while work goes on, given up at once when they are lost, and nothing is written without one."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from app.domain.batch import BatchStatus
from app.domain.upload import Refusal, Upload, UploadStatus
from app.jobs import queue
from app.processing.outcome import Outcome
from tests.support.services import OWNER, Services, holding, serving
from tests.support.workshops import ScriptedWorkshop, found

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)

LEASE = timedelta(seconds=1)
JOBS = "SELECT count(*) FROM boatload_queue.pgqueuer"
TRUNCATE = "TRUNCATE boatload_queue.pgqueuer"
ACTIVE = "SELECT count(*) FROM uploads WHERE lease_expires_at > now()"


@pytest.fixture
def workshop() -> ScriptedWorkshop:
    return ScriptedWorkshop()


@pytest.fixture
async def services(database_url: str, tmp_path: Path, workshop: ScriptedWorkshop) -> AsyncIterator[Services]:
    async with serving(database_url, tmp_path / "objects", sandbox=workshop, lease=LEASE) as services:
        yield services
        assert await services.counted_wrong() == []


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def begun(
    services: Services, workshop: ScriptedWorkshop, *uploads: Upload, slow: list[Upload]
) -> "asyncio.Task[None]":
    """A worker that has all of the uploads in hand, and does not come to an end with those that are slow."""
    workshop.hold(*slow)
    working = asyncio.create_task(services.pipeline.process([upload.id for upload in uploads]))
    await until(lambda: {upload.id for upload in slow} <= workshop.at_work)
    return working


async def status(services: Services, upload: Upload) -> UploadStatus:
    return (await services.uploads.get(OWNER, upload.id)).status


async def completed(services: Services, count: int) -> None:
    async with asyncio.timeout(20):
        while await services.value("SELECT count(*) FROM uploads WHERE status = 'completed'") != count:
            await asyncio.sleep(0.01)


async def test_a_slow_file_keeps_its_lease_and_holds_nobody_up(services: Services, workshop: ScriptedWorkshop) -> None:
    uploads = await services.add(await services.open(), *[b"x"] * 100)
    working = await begun(services, workshop, *uploads, slow=uploads[50:51])
    await completed(services, 99)
    began = time.monotonic()
    while time.monotonic() - began < 3 * LEASE.total_seconds():
        assert await services.value(ACTIVE) == 1
        assert await services.sweeper.requeue() == 0
        await asyncio.sleep(0.05)
    workshop.let_go()
    await working
    slow = await services.uploads.get(OWNER, uploads[50].id)
    assert (slow.status, slow.attempts) == (UploadStatus.COMPLETED, 1)


async def test_outcomes_are_committed_in_groups(services: Services, workshop: ScriptedWorkshop) -> None:
    batch = await services.open()
    uploads = await services.add(batch, *[b"x"] * 300)
    before = (await services.batches.get(OWNER, batch.id)).version
    await services.pipeline.process([upload.id for upload in uploads])
    after = await services.batches.get(OWNER, batch.id)
    assert after.successful_uploads == 300
    assert after.version - before <= 5


async def test_a_cancel_is_exact_and_ends_the_work_within_a_lease(
    services: Services, workshop: ScriptedWorkshop
) -> None:
    batch = await services.open()
    uploads = await services.add(batch, *[b"x"] * 20)
    working = await begun(services, workshop, *uploads, slow=uploads[10:])
    await completed(services, 10)
    cancelled = await services.batches.cancel(OWNER, batch.id)
    assert (cancelled.successful_uploads, cancelled.cancelled_uploads) == (10, 10)
    began = time.monotonic()
    await asyncio.wait_for(working, 20)
    assert time.monotonic() - began < LEASE.total_seconds()
    assert workshop.given_up == {upload.id for upload in uploads[10:]}
    assert await services.batches.get(OWNER, batch.id) == cancelled


async def test_an_outcome_that_comes_after_the_cancel_changes_no_row(
    services: Services, workshop: ScriptedWorkshop
) -> None:
    batch = await services.open()
    uploads = await services.add(batch, b"1", b"2")
    working = await begun(services, workshop, *uploads, slow=uploads)
    cancelled = await services.batches.cancel(OWNER, batch.id)
    rows = await services.rows("SELECT * FROM uploads ORDER BY id")
    workshop.let_go()
    await working
    assert await services.batches.get(OWNER, batch.id) == cancelled
    assert await services.rows("SELECT * FROM uploads ORDER BY id") == rows


async def test_what_was_lost_is_given_up_and_the_rest_goes_on(services: Services, workshop: ScriptedWorkshop) -> None:
    keeps, goes = await services.open(), await services.open()
    (kept,), (gone,) = await services.add(keeps, b"1"), await services.add(goes, b"2")
    working = await begun(services, workshop, kept, gone, slow=[kept, gone])
    await services.batches.cancel(OWNER, goes.id)
    await until(lambda: gone.id not in workshop.at_work and kept.id in workshop.at_work)
    workshop.let_go()
    await working
    assert await status(services, kept) is UploadStatus.COMPLETED
    assert await status(services, gone) is UploadStatus.CANCELLED


async def test_a_worker_whose_lease_was_taken_over_cannot_write(
    workshop: ScriptedWorkshop, database_url: str, tmp_path: Path
) -> None:
    """Its leases are so long that no renewal comes in between: it does not know yet that it lost this one."""
    second = ScriptedWorkshop()
    folder, long = tmp_path / "objects", timedelta(minutes=5)
    async with (
        serving(database_url, folder, sandbox=workshop, lease=long) as services,
        serving(database_url, folder, sandbox=second, lease=long, worker="second:2") as other,
    ):
        (upload,) = await services.add(await services.open(), b"1")
        working = await begun(services, workshop, upload, slow=[upload])
        workshop.ends = lambda one: Outcome(one, error=Refusal("processor-crashed", "The first."))
        second.hold(upload)
        await services.rows("UPDATE uploads SET lease_expires_at = now() - interval '1 second'")
        taking_over = asyncio.create_task(other.pipeline.process([upload.id]))
        await until(lambda: upload.id in second.at_work)
        workshop.let_go()
        await asyncio.wait_for(working, 20)
        assert await status(services, upload) is UploadStatus.PROCESSING
        second.let_go()
        await taking_over
        found = await services.uploads.get(OWNER, upload.id)
        assert (found.status, found.attempts) == (UploadStatus.COMPLETED, 2)
        (lost,) = await services.uploads.list_attempts(OWNER, upload.id, after=0, limit=9)
        assert (lost.number, lost.error.code) == (1, "worker-lost")
        assert await services.counted_wrong() == []


async def test_a_renewal_waits_for_nobody_and_takes_no_lock_for_a_loss(
    services: Services, workshop: ScriptedWorkshop
) -> None:
    uploads = await services.add(await services.open(), b"1", b"2")
    working = await begun(services, workshop, *uploads, slow=uploads)
    async with holding(services.dsn, f"SELECT FROM uploads WHERE id = '{uploads[0].id}' FOR UPDATE"):
        await asyncio.sleep(1.5 * LEASE.total_seconds())
        assert await services.value(ACTIVE) == 1
        assert workshop.given_up == set()
    async with asyncio.timeout(20):
        while await services.value(ACTIVE) != 2:
            await asyncio.sleep(0.01)
    workshop.let_go()
    await working
    assert [await status(services, upload) for upload in uploads] == [UploadStatus.COMPLETED] * 2


async def test_what_a_silent_worker_held_is_enqueued_once_and_before_all_that_waits(services: Services) -> None:
    batch = await services.open()
    uploads = await services.add(batch, *[b"x"] * 3)
    async with services.database.transaction() as connection:
        await connection.execute(
            "UPDATE uploads SET status = 'processing', attempts = 1, lease_expires_at = now() WHERE id = $1",
            uploads[0].id,
        )
        await connection.execute("UPDATE upload_batches SET pending_uploads = 2, processing_uploads = 1")
    assert await services.sweeper.requeue() == 1, "although older jobs are there"
    assert await services.sweeper.requeue() == 0
    jobs = await services.rows("SELECT payload FROM boatload_queue.pgqueuer ORDER BY priority DESC, id")
    assert queue.upload_ids_in(jobs[0]["payload"]) == [uploads[0].id]
    assert len(jobs) == 2


async def test_what_may_be_why_workers_fall_silent_has_a_job_to_itself(services: Services) -> None:
    uploads = await services.add(await services.open(), *[b"x"] * 6)
    await services.rows(TRUNCATE)
    async with services.database.transaction() as connection:
        await connection.execute(
            "UPDATE uploads SET status = 'processing', attempts = CASE WHEN id = ANY($1) THEN 2 ELSE 1 END,"
            " lease_expires_at = now()",
            [upload.id for upload in uploads[:2]],
        )
        await connection.execute("UPDATE upload_batches SET pending_uploads = 0, processing_uploads = 6")
    assert await services.sweeper.requeue() == 6
    jobs = [
        len(queue.upload_ids_in(row["payload"])) for row in await services.rows("SELECT * FROM boatload_queue.pgqueuer")
    ]
    assert sorted(jobs) == [1, 1, 4]


async def test_when_it_is_told_to_stop_what_was_begun_ends_and_the_rest_is_given_back(
    services: Services, workshop: ScriptedWorkshop
) -> None:
    batch = await services.open()
    ends, stays = await services.add(batch, b"1", b"2")
    await services.rows(TRUNCATE)
    working = await begun(services, workshop, ends, stays, slow=[ends, stays])
    closing = asyncio.create_task(services.pipeline.close(0.5))
    workshop.slow[ends.id].set()
    await asyncio.wait_for(closing, 20)
    await asyncio.wait_for(working, 20)
    assert await status(services, ends) is UploadStatus.COMPLETED
    given_back = await services.uploads.get(OWNER, stays.id)
    assert (given_back.status, given_back.attempts) == (UploadStatus.PENDING, 1)
    assert workshop.given_up == {stays.id}
    assert await services.value(JOBS) == 1, "and enqueued at once"
    assert await services.value("SELECT attempts - attempts_before FROM uploads WHERE id = $1", stays.id) == 0
    assert await services.uploads.list_attempts(OWNER, stays.id, after=0, limit=9) == []


async def test_an_end_that_the_database_does_not_take_fails_alone(
    services: Services, workshop: ScriptedWorkshop
) -> None:
    batch = await services.open()
    uploads = await services.add(batch, *[b"x"] * 20)
    await services.batches.seal(OWNER, batch.id)
    nul = Refusal("processor-crashed", "NUL \0 in it")
    workshop.ends = lambda one: Outcome(one, error=nul) if one.id == uploads[7].id else found(one)
    await services.pipeline.process([upload.id for upload in uploads])
    done = await services.batches.get(OWNER, batch.id)
    assert (done.status, done.successful_uploads, done.failed_uploads) == (BatchStatus.COMPLETED, 19, 1)
    failed = await services.uploads.get(OWNER, uploads[7].id)
    assert failed.error
    assert "cannot be stored" in failed.error.detail


async def test_two_sweepers_at_once_enqueue_an_upload_once(services: Services) -> None:
    await services.add(await services.open(), *[b"x"] * 500)
    for _ in range(5):
        await services.rows(TRUNCATE)
        swept = await asyncio.gather(*(services.sweeper.requeue() for _ in range(5)))
        assert sum(swept) == 500
        assert await services.value(JOBS) == 5


async def test_the_queues_log_is_trimmed_of_what_is_old(services: Services) -> None:
    await services.add(await services.open(), *[b"x"] * 250)
    assert await services.sweeper.trim_queue_log() == 0
    await services.rows("UPDATE boatload_queue.pgqueuer_log SET created = now() - interval '25 hours' WHERE id % 2 = 1")
    assert await services.sweeper.trim_queue_log() == 2
    assert await services.value("SELECT count(*) FROM boatload_queue.pgqueuer_log") == 1
    async with services.database.connection() as connection:
        await queue.enqueue(connection, [])
