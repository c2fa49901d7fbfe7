"""Processing: claimed as a set, fenced by attempt, finished once; whatever happens to the worker meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from app.domain.batch import BatchStatus
from app.domain.errors import DatabaseUnavailableError, NotFoundError
from app.domain.upload import Upload, UploadStatus
from tests.support.files import png
from tests.support.services import OWNER, Services, holding, pattern, serving, someone_waiting
from tests.support.workshops import Gate, WatchedWorkshop

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)

EXPIRE = "UPDATE uploads SET lease_expires_at = now() - interval '1 second' WHERE status = 'processing'"
PNG = png(31, 17)


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[WatchedWorkshop]:
    workshop = WatchedWorkshop(tmp_path / "objects")
    yield workshop
    await workshop.inner.close()


@pytest.fixture
async def services(database_url: str, tmp_path: Path, sandbox: WatchedWorkshop) -> AsyncIterator[Services]:
    async with serving(database_url, tmp_path / "objects", sandbox=sandbox, max_attempts=3) as services:
        yield services
        assert await services.counted_wrong() == []


async def held(services: Services, sandbox: WatchedWorkshop, upload: Upload) -> tuple[Gate, "asyncio.Task[None]"]:
    """A worker that has claimed the upload and does not go on."""
    gate = sandbox.before = Gate()
    working = asyncio.create_task(services.pipeline.process([upload.id]))
    await asyncio.wait_for(gate.reached.wait(), 20)
    sandbox.before = None
    return gate, working


async def current(services: Services, upload: Upload) -> tuple[UploadStatus, int]:
    found = await services.uploads.get(OWNER, upload.id)
    return found.status, found.attempts


async def test_a_job_over_many_batches_ends_each_upload_and_finishes_what_is_sealed(services: Services) -> None:
    sealed, open_, kept = [await services.open() for _ in range(3)]
    text, empty, png = await services.add(sealed, b"plain words, nothing else\n", b"", PNG)
    (other,) = await services.add(open_, pattern(2 << 20))
    (single,) = await services.add(kept, b"without a batch\n")
    await services.batches.seal(OWNER, sealed.id)
    await services.batches.delete(OWNER, kept.id, with_uploads=False)
    uploads = [text, empty, png, other, single]
    await services.pipeline.process([upload.id for upload in uploads])
    found = [await services.uploads.get(OWNER, upload.id) for upload in uploads]
    assert {upload.status for upload in found} == {UploadStatus.COMPLETED}
    assert [upload.attempts for upload in found] == [1] * 5
    assert all(upload.completed_at for upload in found)
    types = [upload.detected_type for upload in found]
    assert types == ["text/plain", "application/x-empty", "image/png", "application/octet-stream", "text/plain"]
    done, going_on = [await services.batches.get(OWNER, batch.id) for batch in (sealed, open_)]
    assert (done.status, done.successful_uploads) == (BatchStatus.COMPLETED, 3)
    assert (going_on.status, going_on.successful_uploads) == (BatchStatus.PROCESSING, 1)
    assert max(upload.batch_version for upload in found[:3]) == done.version
    assert found[4].batch_version > single.batch_version


async def test_a_job_that_comes_again_changes_nothing(services: Services, sandbox: WatchedWorkshop) -> None:
    batch = await services.open()
    uploads = await services.add(batch, b"1", b"2")
    ids = [upload.id for upload in uploads]
    await asyncio.gather(*(services.pipeline.process(ids) for _ in range(4)))
    before = await services.batches.get(OWNER, batch.id)
    await services.pipeline.process(ids)
    await services.pipeline.process([*ids, *ids])
    assert await services.batches.get(OWNER, batch.id) == before
    assert sandbox.asked == [2]
    assert [await current(services, upload) for upload in uploads] == [(UploadStatus.COMPLETED, 1)] * 2


async def test_an_upload_named_twice_in_a_job_is_counted_once(services: Services) -> None:
    batch = await services.open()
    (upload,) = await services.add(batch, b"1")
    await services.pipeline.process([upload.id, upload.id])
    assert (await services.batches.get(OWNER, batch.id)).successful_uploads == 1


async def test_a_worker_that_was_overtaken_changes_nothing(services: Services, sandbox: WatchedWorkshop) -> None:
    batch = await services.open()
    (upload,) = await services.add(batch, b"1")
    first_gate, first = await held(services, sandbox, upload)
    await services.pipeline.process([upload.id])
    assert sandbox.asked == [1], "nobody else gets it while the lease runs"
    await services.rows(EXPIRE)
    second_gate, second = await held(services, sandbox, upload)
    first_gate.opened.set()
    await first
    assert await current(services, upload) == (UploadStatus.PROCESSING, 2), "the first came too late"
    second_gate.opened.set()
    await second
    assert await current(services, upload) == (UploadStatus.COMPLETED, 2)
    assert (await services.batches.get(OWNER, batch.id)).successful_uploads == 1


async def test_a_worker_that_is_late_but_was_not_overtaken_still_counts(
    services: Services, sandbox: WatchedWorkshop
) -> None:
    (upload,) = await services.add(await services.open(), b"1")
    gate, working = await held(services, sandbox, upload)
    await services.rows(EXPIRE)
    gate.opened.set()
    await working
    assert await current(services, upload) == (UploadStatus.COMPLETED, 1)


async def test_an_upload_tried_too_often_fails_and_says_so(services: Services, sandbox: WatchedWorkshop) -> None:
    batch = await services.open()
    (upload,) = await services.add(batch, b"1")
    await services.batches.seal(OWNER, batch.id)
    for attempt in range(1, 4):
        _, working = await held(services, sandbox, upload)
        working.cancel()
        await asyncio.wait([working])
        assert await current(services, upload) == (UploadStatus.PROCESSING, attempt)
        await services.rows(EXPIRE)
    await services.pipeline.process([upload.id])
    found = await services.uploads.get(OWNER, upload.id)
    assert (found.status, found.attempts) == (UploadStatus.FAILED, 3)
    assert found.error
    assert found.error.code == "attempts-exhausted"
    assert sandbox.asked == [1, 1, 1]
    assert (await services.batches.get(OWNER, batch.id)).status is BatchStatus.FAILED


@pytest.mark.parametrize("what", ["cancel", "delete batch", "delete all", "delete upload"])
async def test_what_became_of_the_batch_meanwhile_stands(
    services: Services, sandbox: WatchedWorkshop, what: str
) -> None:
    batch = await services.open()
    upload, other = await services.add(batch, b"1", b"2")
    gate, working = await held(services, sandbox, upload)
    if what == "cancel":
        await services.batches.cancel(OWNER, batch.id)
    elif what == "delete upload":
        await services.uploads.delete(OWNER, upload.id)
    else:
        await services.batches.delete(OWNER, batch.id, with_uploads=what == "delete all")
    gate.opened.set()
    await working
    await services.pipeline.process([upload.id, other.id])
    if what == "cancel":
        assert await current(services, upload) == (UploadStatus.CANCELLED, 1)
        assert await current(services, other) == (UploadStatus.CANCELLED, 0)
    elif what == "delete batch":
        assert await current(services, upload) == await current(services, other) == (UploadStatus.COMPLETED, 1)
    else:
        with pytest.raises(NotFoundError):
            await services.uploads.get(OWNER, upload.id)


async def test_bytes_out_of_reach_are_given_back_and_cost_no_attempt(services: Services) -> None:
    batch = await services.open()
    lost, fine = await services.add(batch, pattern(2 << 20), b"fine")
    (path,) = [path for path in services.folder.rglob("*") if path.name == str(lost.object_id)]
    path.rename(path.with_suffix(".away"))
    for number in range(1, 6):
        await services.pipeline.process([lost.id, fine.id])
        assert await current(services, lost) == (UploadStatus.PENDING, number)
        assert (await services.batches.get(OWNER, batch.id)).pending_uploads == 1
    assert await current(services, fine) == (UploadStatus.COMPLETED, 1)
    assert await services.sweeper.requeue() == 1, "its wait is over"
    assert await services.sweeper.requeue() == 0
    path.with_suffix(".away").rename(path)
    await services.pipeline.process([lost.id])
    assert await current(services, lost) == (UploadStatus.COMPLETED, 6)
    assert await services.uploads.list_attempts(OWNER, lost.id, after=0, limit=9) == []


async def test_what_could_not_be_begun_because_the_database_was_away_is_given_back_and_costs_no_attempt(
    services: Services, sandbox: WatchedWorkshop
) -> None:
    async def before(_uploads: object) -> None:
        raise DatabaseUnavailableError

    uploads = await services.add(await services.open(), b"1", b"2")
    ids = [upload.id for upload in uploads]
    sandbox.before = before
    for number in range(1, 6):
        await services.pipeline.process(ids)
        assert [await current(services, upload) for upload in uploads] == [(UploadStatus.PENDING, number)] * 2
    sandbox.before = None
    await services.pipeline.process(ids)
    assert [await current(services, upload) for upload in uploads] == [(UploadStatus.COMPLETED, 6)] * 2


async def test_a_child_that_was_killed_is_replaced(services: Services, sandbox: WatchedWorkshop) -> None:
    batch = await services.open()
    first, *others = await services.add(batch, *[b"1"] * 5)
    await services.pipeline.process([first.id])
    for child in psutil.Process().children():
        if "app.processing.child" in child.cmdline():
            child.kill()
            child.wait()
    await services.pipeline.process([upload.id for upload in others])
    assert [await current(services, upload) for upload in others] == [(UploadStatus.COMPLETED, 1)] * 4


async def test_what_a_lost_database_did_not_take_is_committed_when_it_is_back(
    services: Services, sandbox: WatchedWorkshop
) -> None:
    (upload,) = await services.add(await services.open(), b"1")
    gate, working = await held(services, sandbox, upload)
    async with holding(services.dsn, "SELECT FROM upload_batches FOR UPDATE") as holder:
        gate.opened.set()
        await holder.execute("SELECT pg_terminate_backend($1, 5000)", await someone_waiting(holder))
        await someone_waiting(holder)
        assert not working.done()
    await asyncio.wait_for(working, 20)
    assert await current(services, upload) == (UploadStatus.COMPLETED, 1)
