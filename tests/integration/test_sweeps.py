"""Nothing is forgotten: uploads without a job get one, bytes without an upload go, and nothing else does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from app.domain.batch import BatchStatus
from app.domain.errors import NotFoundError
from app.domain.ids import new_id, utc_now
from app.domain.upload import Upload
from app.jobs import queue
from tests.support.services import MIB, OWNER, Services, holding, pattern, serving, someone_waiting

TRUNCATE = "TRUNCATE boatload_queue.pgqueuer"
JOBS = "SELECT payload FROM boatload_queue.pgqueuer"
BIG = pattern(MIB + 1)


@pytest.fixture
async def services(database_url: str, tmp_path: Path) -> AsyncIterator[Services]:
    """Objects count as old enough from the first moment."""
    async with serving(database_url, tmp_path / "objects", min_age=timedelta(0)) as services:
        yield services
        assert await services.counted_wrong() == []


@asynccontextmanager
async def working(services: Services) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(queue.consume(services.dsn, services.pipeline.process, stop))
    yield
    stop.set()
    await asyncio.wait_for(task, 10)


async def queued(services: Services) -> list[UUID]:
    return sorted(one for row in await services.rows(JOBS) for one in queue.upload_ids_in(row["payload"]))


def stored(services: Services) -> set[UUID]:
    return set(services.store.list())


async def objects(services: Services) -> set[UUID]:
    return {row["id"] for row in await services.rows("SELECT id FROM objects")}


async def test_uploads_whose_jobs_were_lost_are_enqueued_again_and_finish(services: Services) -> None:
    batch = await services.open()
    uploads = await services.add(batch, *[b"%d" % number for number in range(250)])
    single = await services.open()
    (alone,) = await services.add(single, b"alone")
    await services.batches.delete(OWNER, single.id, with_uploads=False)
    await services.batches.seal(OWNER, batch.id)
    await services.rows(TRUNCATE)
    async with working(services):
        await asyncio.sleep(0.1)
        assert (await services.batches.get(OWNER, batch.id)).pending_uploads == 250
        assert await services.sweeper.requeue() == 251
        async with asyncio.timeout(20):
            while await services.value("SELECT count(*) FROM uploads WHERE status <> 'completed'"):
                await asyncio.sleep(0.02)
    after = await services.batches.get(OWNER, batch.id)
    assert (after.status, after.successful_uploads) == (BatchStatus.COMPLETED, 250)
    assert {(await services.uploads.get(OWNER, one.id)).attempts for one in (*uploads[::50], alone)} == {1}


@pytest.mark.parametrize("postgres_version", ["18"], indirect=True)
class TestRequeue:
    async def test_nothing_is_enqueued_while_its_job_exists(self, services: Services) -> None:
        batch = await services.open()
        uploads = await services.add(batch, b"1", b"2")
        uploads += await services.add(batch, b"3")
        wanted = sorted(upload.id for upload in uploads)
        for _ in range(3):
            assert await services.sweeper.requeue() == 0
        assert await queued(services) == wanted
        await services.rows(TRUNCATE)
        assert [await services.sweeper.requeue() for _ in range(3)] == [3, 0, 0]
        assert await queued(services) == wanted

    async def test_only_what_is_older_than_every_job_is_forgotten(self, services: Services) -> None:
        batch = await services.open()
        (lost,) = await services.add(batch, b"lost")
        await services.rows(TRUNCATE)
        (fresh,) = await services.add(batch, b"fresh")
        assert await services.sweeper.requeue() == 1
        assert await queued(services) == sorted([lost.id, fresh.id])

    async def test_several_sweepers_at_once_leave_nothing_out_and_wait_for_nobody(self, services: Services) -> None:
        uploads = await services.add(await services.open(), *[b"x"] * 500)
        await services.rows(TRUNCATE)
        await asyncio.gather(*(services.sweeper.requeue() for _ in range(5)))
        assert set(await queued(services)) == {upload.id for upload in uploads}
        assert await services.sweeper.requeue() == 0

    async def test_nothing_is_enqueued_twice_while_files_keep_joining(self, services: Services) -> None:
        batch = await services.open()
        over = asyncio.Event()

        async def sweep() -> None:
            while not over.is_set():
                assert await services.sweeper.requeue() == 0

        sweeping = [asyncio.create_task(sweep()) for _ in range(3)]
        for _ in range(150):
            await services.add(batch, b"x")
        over.set()
        await asyncio.gather(*sweeping)
        assert len(await queued(services)) == 150

    async def test_thousands_are_enqueued_again_in_one_sweep(self, services: Services) -> None:
        await services.add(await services.open(), *[b"x"] * 3500)
        await services.rows(TRUNCATE)
        assert await services.sweeper.requeue() == 3500
        assert len(set(await queued(services))) == 3500

    async def test_what_a_killed_worker_held_comes_back_once_its_lease_has_run_out(self, services: Services) -> None:
        batch = await services.open()
        (upload,) = await services.add(batch, b"x")
        async with services.database.transaction() as connection:
            await connection.execute(
                "UPDATE uploads SET status = 'processing', attempts = 1, lease_expires_at = now() + interval '1 second'"
            )
            await connection.execute("UPDATE upload_batches SET pending_uploads = 0, processing_uploads = 1")
            await connection.execute(TRUNCATE)
        assert await services.sweeper.requeue() == 0
        stop = asyncio.Event()
        sweeping = asyncio.create_task(services.sweeper.run(interval_seconds=0.1, stop=stop))
        async with working(services), asyncio.timeout(20):
            while (found := await services.uploads.get(OWNER, upload.id)).status != "completed":
                await asyncio.sleep(0.02)
        stop.set()
        await sweeping
        assert found.attempts == 2

    async def test_what_is_final_or_held_under_a_lease_is_left_alone(self, services: Services) -> None:
        batch = await services.open()
        done, held, cancelled = await services.add(batch, b"1", b"2", b"3")
        await services.pipeline.process([done.id])
        async with services.database.transaction() as connection:
            await connection.execute(
                "UPDATE uploads SET status = 'processing', lease_expires_at = now() + interval '1 minute'"
                " WHERE id = $1",
                held.id,
            )
            await connection.execute("UPDATE upload_batches SET pending_uploads = 1, processing_uploads = 1")
        await services.rows(TRUNCATE)
        assert await services.sweeper.requeue() == 1
        assert await queued(services) == [cancelled.id]
        await services.batches.cancel(OWNER, batch.id)
        await services.rows(TRUNCATE)
        assert await services.sweeper.requeue() == 0

    async def test_what_another_holds_is_passed_over_and_not_waited_for(self, services: Services) -> None:
        uploads = await services.add(await services.open(), b"1", b"2")
        await services.rows(TRUNCATE)
        async with holding(services.dsn, f"SELECT FROM uploads WHERE id = '{uploads[0].id}' FOR UPDATE"):
            assert await asyncio.wait_for(services.sweeper.requeue(), 5) == 1
        assert await queued(services) == [uploads[1].id]


@pytest.mark.parametrize("postgres_version", ["18"], indirect=True)
class TestRemoval:
    async def test_an_object_without_uploads_goes_with_its_row(self, services: Services) -> None:
        batch = await services.open()
        gone, stays = await services.add(batch, BIG, pattern(MIB + 2))
        await services.uploads.delete(OWNER, gone.id)
        assert await services.sweeper.remove_abandoned() == 1
        assert stored(services) == await objects(services) == {stays.object_id}
        assert await services.content(stays.id) == pattern(MIB + 2)
        assert await services.sweeper.remove_abandoned() == 0

    async def test_a_pack_stays_until_its_last_upload_is_gone(self, database_url: str, tmp_path: Path) -> None:
        async with serving(database_url, tmp_path / "objects", pack_bytes=1) as services:
            uploads = await services.add(await services.open(), b"1", b"2", b"3")
            for upload in uploads[:2]:
                await services.uploads.delete(OWNER, upload.id)
            assert await services.sweeper.remove_abandoned() == 0
            assert await services.content(uploads[2].id) == b"3"
            await services.uploads.delete(OWNER, uploads[2].id)
            assert await services.sweeper.remove_abandoned() == 1
            assert stored(services) | await objects(services) == set()

    async def test_an_open_pack_stays_although_all_in_it_was_deleted(self, services: Services) -> None:
        batch = await services.open()
        (gone,) = await services.add(batch, b"gone")
        await services.uploads.delete(OWNER, gone.id)
        assert await services.sweeper.remove_abandoned() == 0
        (next_,) = await services.add(batch, b"next")
        assert next_.object_id == gone.object_id
        assert await services.content(next_.id) == b"next"

    async def test_bytes_without_a_row_go_once_they_are_old(self, database_url: str, tmp_path: Path) -> None:
        moment = utc_now()
        age = timedelta(minutes=10)
        async with serving(database_url, tmp_path / "objects", min_age=age, clock=lambda: moment) as services:
            await services.add(await services.open(), b"kept", BIG)
            kept = stored(services)
            writer = services.store.create(new_id())
            writer.write([b"never committed"])
            writer.close()
            held = services.store.create(new_id())
            held.write([b"still being written"])
            assert await services.sweeper.remove_abandoned() == 0
            moment += age + timedelta(seconds=1)
            assert await services.sweeper.remove_abandoned() == 1
            assert stored(services) == kept | {held.object_id}
            held.close()
            assert await services.sweeper.remove_abandoned() == 1
            assert stored(services) == kept

    async def test_a_row_whose_bytes_are_gone_goes_too(self, services: Services) -> None:
        batch = await services.open()
        (upload,) = await services.add(batch, BIG)
        await services.uploads.delete(OWNER, upload.id)
        for path in services.folder.rglob(str(upload.object_id)):
            path.unlink()
        assert await services.sweeper.remove_abandoned() == 1
        assert await objects(services) == set()

    async def test_a_file_of_somebody_else_is_left_alone(self, services: Services) -> None:
        (services.folder / "ab" / "lost+found").write_bytes(b"not ours")
        (services.folder / "ff" / "ffffffff-ffff-4fff-8fff-ffffffffffff").write_bytes(b"made after the year 9999")
        assert await services.sweeper.remove_abandoned() == 0
        assert (services.folder / "ab" / "lost+found").exists()

    async def test_an_upload_that_joins_meanwhile_keeps_its_object(self, services: Services) -> None:
        batch = await services.open()
        (old,) = await services.add(batch, BIG)
        async with services.database.connection() as connection:
            await connection.execute("CREATE TABLE copy AS SELECT * FROM uploads")
        await services.uploads.delete(OWNER, old.id)
        async with holding(services.dsn, "INSERT INTO uploads SELECT * FROM copy") as joining:
            await joining.execute("UPDATE uploads SET batch_id = NULL")
            sweeping = asyncio.create_task(services.sweeper.remove_abandoned())
            await someone_waiting(joining)
            await joining.execute("COMMIT")
            assert await sweeping == 0
            await joining.execute("BEGIN")
        assert await services.content(old.id) == BIG

    async def test_many_pages_of_objects_are_gone_through(self, services: Services) -> None:
        ids = [new_id() for _ in range(1001)]
        await services.rows("INSERT INTO objects (id, size_bytes) SELECT unnest($1::uuid[]), 1", ids)
        assert await services.sweeper.remove_abandoned() == 1001
        assert await objects(services) == set()

    async def test_removal_runs_beside_uploads_and_deletes(self, services: Services) -> None:
        """Every upload that is there at the end has its bytes, and nothing else is in the store."""
        batch = await services.open()
        over = asyncio.Event()

        async def client(seed: int) -> list[Upload]:
            kept = []
            for number in range(15):
                one, two = await services.add(batch, pattern(MIB + 1, seed * 100 + number), b"small")
                await services.uploads.delete(OWNER, one.id if number % 2 else two.id)
                kept.append(two if number % 2 else one)
            return kept

        async def sweep() -> None:
            while not over.is_set():
                await services.sweeper.remove_abandoned()

        sweeping = [asyncio.create_task(sweep()) for _ in range(2)]
        kept = [upload for uploads in await asyncio.gather(*map(client, range(4))) for upload in uploads]
        over.set()
        await asyncio.gather(*sweeping)
        await services.sweeper.remove_abandoned()
        for upload in kept:
            assert len(await services.content(upload.id)) == upload.size_bytes
        assert stored(services) == await objects(services)
        with pytest.raises(NotFoundError):
            await services.uploads.get(OWNER, new_id())


@pytest.mark.parametrize("postgres_version", ["18"], indirect=True)
async def test_a_long_removal_does_not_keep_the_requeue_waiting(services: Services) -> None:
    await services.rows("INSERT INTO objects SELECT gen_random_uuid(), 1 FROM generate_series(1, 1000)")
    stop = asyncio.Event()
    running = asyncio.create_task(services.sweeper.run(interval_seconds=0.2, stop=stop))
    await asyncio.sleep(0.1)
    await services.add(await services.open(), b"1")
    await services.rows(TRUNCATE)
    async with asyncio.timeout(20):
        while not await queued(services):
            await asyncio.sleep(0.02)
    assert len(await objects(services)) > 100, "the removal still goes on"
    stop.set()
    await asyncio.wait_for(running, 20)


@pytest.mark.parametrize("postgres_version", ["18"], indirect=True)
async def test_stop_does_not_wait_for_a_long_removal(services: Services) -> None:
    await services.rows("INSERT INTO objects SELECT gen_random_uuid(), 1 FROM generate_series(1, 5000)")
    stop = asyncio.Event()
    running = asyncio.create_task(services.sweeper.run(interval_seconds=0.1, stop=stop))
    async with asyncio.timeout(20):
        while len(await objects(services)) == 5000:
            await asyncio.sleep(0.01)
    stop.set()
    await asyncio.wait_for(running, 2)


@pytest.mark.parametrize("postgres_version", ["18"], indirect=True)
async def test_run_sweeps_until_it_is_stopped_and_survives_a_lost_database(services: Services) -> None:
    batch = await services.open()
    pending, gone = await services.add(batch, b"1", BIG)
    await services.uploads.delete(OWNER, gone.id)
    await services.rows(TRUNCATE)
    stop = asyncio.Event()
    running = asyncio.create_task(services.sweeper.run(interval_seconds=0.1, stop=stop))
    async with asyncio.timeout(10):
        while await queued(services) != [pending.id] or gone.object_id in stored(services):
            await asyncio.sleep(0.02)
    killer = await asyncpg.connect(services.dsn)
    for _ in range(10):
        await killer.execute(
            "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await asyncio.sleep(0.1)
    await killer.execute(TRUNCATE)
    async with asyncio.timeout(10):
        while not await killer.fetch(JOBS):
            await asyncio.sleep(0.02)
    await killer.close()
    assert await queued(services) == [pending.id]
    stop.set()
    await asyncio.wait_for(running, 2)
