"""The bytes of one group are written while the one before is being committed, and nothing of that can be told."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from app.domain.batch import Batch, BatchStatus
from app.domain.errors import BatchClosedError, BatchFullError, QuotaExceededError, RefConflictError, StorageFullError
from app.domain.ids import new_id
from app.domain.quota import Quota
from app.domain.upload import Refusal
from app.ingest.arrival import Arrival
from app.ingest.submission import Kept, Submission
from app.jobs import queue
from tests.support.resuming import entry
from tests.support.services import LIMITS, OWNER, FlakyStore, Services, holding, serving, someone_waiting

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)

STATEMENTS = "SELECT prosrc FROM pg_proc WHERE pronamespace = 'boatload_queue'::regnamespace AND proname = 'enqueue'"
JOBS = "SELECT payload FROM boatload_queue.pgqueuer ORDER BY id"
TRANSACTIONS = "SELECT count(DISTINCT xmin::text) FROM uploads"


class Watched(FlakyStore):
    """Counts the calls, and runs `between` once, in the middle of the next sync."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, self._count)
        self.calls: list[str] = []
        self.between: threading.Event | None = None
        self.reached = threading.Event()
        self.full = False

    def _count(self, call: str) -> None:
        self.calls.append(call)
        if self.full and call == "write":
            raise StorageFullError
        if call == "sync" and self.between:
            go_on, self.between = self.between, None
            self.reached.set()
            assert go_on.wait(20)


@pytest.fixture
async def store(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "objects")


@pytest.fixture
async def services(database_url: str, tmp_path: Path, store: Watched) -> AsyncIterator[Services]:
    async with serving(database_url, tmp_path / "objects", store=store) as services:
        yield services


def submitted(services: Services, batch: Batch, *contents: bytes, ref: str | None = None) -> "asyncio.Task[Kept]":
    files = services.files(*contents)
    files[0].ref = ref
    return asyncio.create_task(services.group.submit(Submission(OWNER, batch.id, files)))


async def until_synced(store: Watched, times: int) -> None:
    async with asyncio.timeout(20):
        while store.calls.count("sync") < times:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def meanwhile(store: Watched) -> AsyncIterator[None]:
    """Within, the next group has been looked at, and is being synced."""
    store.between = go_on = threading.Event()
    try:
        async with asyncio.timeout(20):
            await asyncio.to_thread(store.reached.wait, 20)
        yield
    finally:
        store.reached.clear()
        go_on.set()


async def test_the_next_group_is_durable_before_the_last_is_committed(services: Services, store: Watched) -> None:
    first, second = await services.open(), await services.open()
    async with holding(services.dsn, f"SELECT FROM upload_batches WHERE id = '{first.id}' FOR UPDATE") as holder:
        one = submitted(services, first, b"one")
        await someone_waiting(holder)
        two, three = submitted(services, second, b"two"), submitted(services, first, b"three")
        await until_synced(store, 2)
        assert [task.done() for task in (one, two, three)] == [False] * 3, "they are committed in their order"
    kept = [upload for task in (one, two, three) for upload in (await task)[1]]
    assert [await services.content(upload.id) for upload in kept] == [b"one", b"two", b"three"]
    assert await services.value(TRANSACTIONS) == 2, "what was placed meanwhile is one group"
    assert await services.counted_wrong() == []


async def test_bytes_that_are_about_to_be_stored_are_not_stored_twice(services: Services, store: Watched) -> None:
    first, second = await services.open(), await services.open()
    async with holding(services.dsn, f"SELECT FROM upload_batches WHERE id = '{first.id}' FOR UPDATE") as holder:
        one = submitted(services, first, b"same")
        await someone_waiting(holder)
        two = submitted(services, second, b"same")
        await asyncio.sleep(0.3)
        assert store.calls.count("sync") == 1, "it waits to learn whether they are"
    kept = [upload for task in (one, two) for upload in (await task)[1]]
    assert len({(upload.object_id, upload.object_offset) for upload in kept}) == 1
    assert store.calls.count("sync") == 1


async def test_a_ref_that_is_about_to_be_taken_is_taken(services: Services) -> None:
    batch = await services.open()
    async with holding(services.dsn, "SELECT FROM upload_batches FOR UPDATE") as holder:
        one = submitted(services, batch, b"one", ref="a")
        await someone_waiting(holder)
        same, other = submitted(services, batch, b"one", ref="a"), submitted(services, batch, b"two", ref="a")
    assert (await one)[1] == (await same)[1]
    with pytest.raises(RefConflictError):
        await other
    assert await services.value("SELECT count(*) FROM uploads") == 1
    assert await services.counted_wrong() == []


async def test_a_batch_that_is_about_to_be_opened_can_be_added_to(services: Services, store: Watched) -> None:
    batch_id, other = new_id(), await services.open()
    async with holding(services.dsn, f"SELECT FROM upload_batches WHERE id = '{other.id}' FOR UPDATE") as holder:
        waiting = submitted(services, other, b"other")
        await someone_waiting(holder)
        opening = Submission(OWNER, batch_id, services.files(b"1"), opens=True)
        adding = Submission(OWNER, batch_id, services.files(b"2"), seals=True, behind=opening)
        both = [asyncio.create_task(services.group.submit(opening))]
        await until_synced(store, 2)
        both.append(asyncio.create_task(services.group.submit(adding)))
        await asyncio.sleep(0.2)
    await waiting
    batch, _ = (await asyncio.gather(*both))[1]
    assert (batch.total_uploads, bool(batch.sealed_at)) == (2, True)


async def test_a_limit_that_is_about_to_be_reached_holds(database_url: str, tmp_path: Path) -> None:
    limits = replace(LIMITS, max_files_per_batch=3)
    async with serving(database_url, tmp_path / "objects", limits=limits) as services:
        batch = await services.open()
        async with holding(services.dsn, "SELECT FROM upload_batches FOR UPDATE") as holder:
            tasks = [submitted(services, batch, b"%d" % number) for number in range(2)]
            await someone_waiting(holder)
            tasks += [submitted(services, batch, b"%d" % number) for number in range(2, 6)]
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(answer, BatchFullError) for answer in answers] == [False] * 3 + [True] * 3
        assert await services.value("SELECT count(*) FROM uploads") == 3
        assert await services.counted_wrong() == []


async def test_room_that_was_made_a_moment_ago_is_room(database_url: str, tmp_path: Path) -> None:
    limits = replace(LIMITS, max_files_per_batch=1)
    async with serving(database_url, tmp_path / "objects", limits=limits) as services:
        batch = await services.open()
        for content in (b"one", b"two", b"three"):
            (upload,) = await services.add(batch, content)
            await services.uploads.delete(OWNER, upload.id)
        assert await services.counted_wrong() == []


async def test_a_quota_that_is_about_to_be_used_up_keeps_bytes_from_the_pack(
    services: Services, store: Watched
) -> None:
    batch = await services.open()
    await services.quotas.set(OWNER, Quota(bytes=20))
    await services.add(batch, b"12345678")
    async with holding(services.dsn, "SELECT FROM upload_batches FOR UPDATE") as holder:
        one = submitted(services, batch, b"abcdefgh")
        await someone_waiting(holder)
        two = submitted(services, batch, b"ABCDEFGH")
        await asyncio.sleep(0.2)
    await one
    with pytest.raises(QuotaExceededError):
        await two
    assert store.calls.count("sync") == 2
    assert await services.counted_wrong() == []


async def test_a_batch_that_others_close_meanwhile_is_closed(services: Services, store: Watched) -> None:
    batch = await services.open()
    await services.add(batch, b"before")
    late = submitted(services, batch, b"late")
    async with meanwhile(store):
        await services.batches.seal(OWNER, batch.id)
    with pytest.raises(BatchClosedError):
        await late
    again = submitted(services, batch, b"again")
    with pytest.raises(BatchClosedError):
        await again
    assert (await services.batches.get(OWNER, batch.id)).total_uploads == 1
    assert await services.counted_wrong() == []


async def test_a_ref_that_another_process_takes_meanwhile_is_taken(
    database_url: str, tmp_path: Path, services: Services, store: Watched
) -> None:
    async with serving(database_url, tmp_path / "objects") as elsewhere:
        batch = await services.open()
        await services.add(batch, b"before")
        late = submitted(services, batch, b"late", ref="a")
        async with meanwhile(store):
            await submitted(elsewhere, batch, b"first", ref="a")
        with pytest.raises(RefConflictError):
            await late
        assert await services.value("SELECT count(*) FROM uploads") == 2
        assert await services.counted_wrong() == []


@pytest.mark.parametrize("quota", [None, Quota(files=2)])
async def test_a_declared_file_that_is_deleted_meanwhile_fails_no_neighbour(
    services: Services, store: Watched, quota: Quota | None
) -> None:
    batch = await services.open()
    _, (declared,) = await services.manifests.declare(OWNER, batch.id, [entry("a", 4, of=b"good")])
    if quota:
        await services.quotas.set(OWNER, quota)
    tasks = [submitted(services, batch, content, ref="a") for content in (b"evil", b"good")]
    tasks += [submitted(services, batch, content) for content in (b"neighbour", b"another")]
    async with meanwhile(store):
        await services.uploads.delete(OWNER, declared.upload.id)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    over = [False, False, False, quota is not None]
    assert [isinstance(answer, QuotaExceededError) for answer in answers] == over
    assert [isinstance(answer, tuple) for answer in answers] == [not one for one in over]
    (good,) = await services.rows("SELECT id, status, completed_at, error FROM uploads WHERE ref = 'a'")
    assert tuple(good)[1:] == ("pending", None, None)
    assert await services.content(good["id"]) == b"good"
    assert await services.counted_wrong() == []


async def test_what_is_counted_meanwhile_is_counted(services: Services, store: Watched) -> None:
    batch = await services.open()
    await services.add(batch, b"before")
    adding = submitted(services, batch, b"late")
    async with meanwhile(store):
        await services.quotas.recount()
    await adding
    await services.add(batch, b"after")
    assert tuple((await services.rows("SELECT bytes, files FROM quota_usage WHERE user_id = $1", OWNER))[0]) == (15, 3)


async def test_a_pack_that_fails_is_kept_from_the_sweeper_until_its_rows_are_there(
    services: Services, store: Watched
) -> None:
    first, second = await services.open(), await services.open()
    async with holding(services.dsn, f"SELECT FROM upload_batches WHERE id = '{first.id}' FOR UPDATE") as holder:
        one = submitted(services, first, b"one")
        await someone_waiting(holder)
        store.full = True
        with pytest.raises(StorageFullError):
            await submitted(services, second, b"two")
        store.full = False
        (pack,) = store.list()
        assert store.claim_abandoned(pack) is None
    _, (upload,) = await one
    await services.add(second, b"three")
    assert await services.content(upload.id) == b"one"
    claim = store.claim_abandoned(pack)
    assert claim, "nothing more is written to it"
    claim.release()


async def test_who_is_to_be_told_of_an_end_is_told(services: Services) -> None:
    url = "https://example.com/hook"
    opened = await services.batches.open(
        OWNER, label=None, expected_uploads=1, metadata={}, expires_in=None, webhook_url=url
    )
    refused = Arrival(0, "bad", None, Refusal("invalid-filename", "No."))
    batch, _ = await services.group.submit(Submission(OWNER, opened.id, [refused]))
    assert batch.status is BatchStatus.FAILED
    assert await services.rows("SELECT batch_id, url FROM webhook_deliveries") == [(batch.id, url)]
    xmins = "SELECT xmin::text FROM upload_batches UNION SELECT xmin::text FROM webhook_deliveries"
    assert len(await services.rows(xmins)) == 1, "both or none"


async def test_jobs_are_added_by_the_statement_of_the_installed_queue(services: Services) -> None:
    assert queue.enqueue_sql() in str(await services.value(STATEMENTS)), "a migration has to make it anew"
    batch = await services.open()
    async with services.database.transaction() as connection:
        await queue.enqueue(connection, [batch.id])
    uploads = await services.add(batch, *[b"%d" % number for number in range(queue.JOB_UPLOADS + 1)])
    jobs = await services.rows("SELECT * FROM boatload_queue.pgqueuer ORDER BY id")
    assert [queue.upload_ids_in(job["payload"]) for job in jobs] == [
        [batch.id],
        [upload.id for upload in uploads[: queue.JOB_UPLOADS]],
        [uploads[-1].id],
    ]
    own = {"id", "payload", "created", "updated", "execute_after", "heartbeat"}
    assert len({tuple((name, value) for name, value in job.items() if name not in own) for job in jobs}) == 1
