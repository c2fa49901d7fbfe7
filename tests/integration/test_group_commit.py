"""Group commit: durable before it is answered, one transaction for whoever waits, and nobody's trouble is another's."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from app.domain.batch import BatchStatus
from app.domain.errors import (
    BatchClosedError,
    BatchFullError,
    BoatloadError,
    DatabaseUnavailableError,
    NotFoundError,
    StorageFullError,
    StorageUnavailableError,
    TooManyUploadsError,
)
from app.domain.ids import new_id
from app.domain.upload import Refusal, Upload, UploadStatus
from app.ingest.arrival import Arrival
from app.ingest.submission import Kept, Submission
from app.jobs.queue import upload_ids_in
from tests.support.services import (
    LIMITS,
    MIB,
    OWNER,
    STRANGER,
    FlakyStore,
    Services,
    holding,
    pattern,
    serving,
    someone_waiting,
)

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)

TRANSACTIONS = "SELECT count(DISTINCT xmin::text) FROM uploads"
JOBS = "SELECT payload FROM boatload_queue.pgqueuer ORDER BY id"


@pytest.fixture
async def services(database_url: str, tmp_path: Path) -> AsyncIterator[Services]:
    async with serving(database_url, tmp_path / "objects") as services:
        yield services


async def queued(services: Services) -> list[UUID]:
    return [one for row in await services.rows(JOBS) for one in upload_ids_in(row["payload"])]


async def submit_all(services: Services, *submissions: Submission) -> list[Kept | BaseException]:
    """Submit at the same moment, so that they are one group."""
    return await asyncio.gather(*map(services.group.submit, submissions), return_exceptions=True)


async def test_one_file_is_a_row_a_count_a_job_and_its_bytes(services: Services) -> None:
    batch = await services.open()
    after, (upload,) = await services.group.submit(Submission(OWNER, batch.id, services.files(b"hello")))
    assert (after.status, after.total_uploads, after.pending_uploads) == (BatchStatus.PROCESSING, 1, 1)
    assert (after.total_bytes, after.received_bytes, after.version) == (5, 5, batch.version + 1)
    assert after == await services.batches.get(OWNER, batch.id)
    assert upload == await services.uploads.get(OWNER, upload.id)
    assert (upload.status, upload.batch_version, upload.filename) == (UploadStatus.PENDING, after.version, "0.bin")
    assert await services.content(upload.id) == b"hello"
    assert await queued(services) == [upload.id]
    assert await services.counted_wrong() == []


async def test_a_thousand_files_of_one_submission_are_one_transaction(services: Services) -> None:
    batch = await services.open()
    contents = [pattern(random.Random(number).randrange(3000), number) for number in range(1000)]
    uploads = await services.add(batch, *contents)
    assert [upload.filename for upload in uploads] == [f"{number}.bin" for number in range(1000)]
    assert [upload.id for upload in uploads] == sorted(upload.id for upload in uploads)
    assert await services.value(TRANSACTIONS) == 1
    assert await queued(services) == [upload.id for upload in uploads]
    assert len(await services.rows(JOBS)) == 10
    assert [await services.content(upload.id) for upload in uploads[::50]] == contents[::50]
    places = sorted((upload.object_offset or 0, upload.received_bytes) for upload in uploads)
    ends = [offset + size for offset, size in places]
    assert [offset for offset, _ in places] == [0, *ends[:-1]], "one pack, without gap or overlap"
    assert await services.rows("SELECT size_bytes FROM objects") == [(ends[-1],)]
    assert await services.counted_wrong() == []


async def test_a_thousand_submissions_of_one_form_groups(services: Services) -> None:
    batches = [await services.open() for _ in range(5)]
    kept = await asyncio.gather(*(services.add(batches[number % 5], pattern(number, number)) for number in range(1000)))
    transactions = await services.value(TRANSACTIONS)
    assert isinstance(transactions, int)
    assert transactions <= 20
    assert [len(uploads) for uploads in kept] == [1] * 1000
    assert [uploads[0].size_bytes for uploads in kept] == list(range(1000))
    assert [await services.content(uploads[0].id) for uploads in kept[::50]] == [
        pattern(number, number) for number in range(0, 1000, 50)
    ]
    for batch in batches:
        after = await services.batches.get(OWNER, batch.id)
        assert (after.total_uploads, after.version) == (200, batch.version + 200)
    assert len(set(await queued(services))) == 1000
    assert await services.counted_wrong() == []


async def test_big_empty_and_refused_files_lie_in_their_places(services: Services) -> None:
    batch = await services.open()
    refused = Arrival(3, "bad", None, Refusal("invalid-filename", "No."))
    arrivals = services.files(b"", pattern(MIB), pattern(MIB + 1), b"x")
    arrivals.insert(3, refused)
    after, uploads = await services.group.submit(Submission(OWNER, batch.id, arrivals))
    contents = [b"", pattern(MIB), pattern(MIB + 1), None, b"x"]
    assert [upload.size_bytes for upload in uploads] == [c if c is None else len(c) for c in contents]
    assert [await services.content(upload.id) for upload in uploads if not upload.error] == [
        content for content in contents if content is not None
    ]
    assert len({upload.object_id for upload in uploads}) == 3, "the pack, one of its own, none"
    assert (uploads[3].status, uploads[3].error) == (UploadStatus.FAILED, Refusal("invalid-filename", "No."))
    assert (after.pending_uploads, after.failed_uploads, after.processed_uploads) == (4, 1, 1)
    assert await queued(services) == [upload.id for upload in uploads if not upload.error]
    assert await services.counted_wrong() == []


async def test_only_refused_files_finish_a_batch_without_a_job(services: Services) -> None:
    batch = await services.open(expected=1)
    refused = Arrival(0, "bad", None, Refusal("invalid-filename", "No."))
    after, _ = await services.group.submit(Submission(OWNER, batch.id, [refused]))
    assert (after.status, after.failed_uploads) == (BatchStatus.FAILED, 1)
    assert after.error_message
    assert await queued(services) == []


async def test_a_refusal_is_for_one_and_the_neighbours_are_kept(database_url: str, tmp_path: Path) -> None:
    limits = replace(LIMITS, max_files_per_batch=4)
    async with serving(database_url, tmp_path / "objects", limits=limits) as services:
        mine, few, sealed, cancelled = [await services.open(expected=number) for number in (None, 3, None, None)]
        theirs = await services.open(owner=STRANGER)
        await services.batches.seal(OWNER, sealed.id)
        await services.batches.cancel(OWNER, cancelled.id)
        wanted: list[tuple[Submission, type[BoatloadError] | None]] = [
            (Submission(OWNER, mine.id, services.files(b"1")), None),
            (Submission(OWNER, sealed.id, services.files(b"2")), BatchClosedError),
            (Submission(OWNER, cancelled.id, services.files(b"3")), BatchClosedError),
            (Submission(OWNER, theirs.id, services.files(b"4")), NotFoundError),
            (Submission(OWNER, new_id(), services.files(b"5")), NotFoundError),
            (Submission(OWNER, few.id, services.files(b"6", b"7")), None),
            (Submission(OWNER, few.id, services.files(b"8", b"9")), TooManyUploadsError),
            (Submission(OWNER, few.id, services.files(b"10")), None),
            (Submission(OWNER, few.id, services.files(b"11")), BatchClosedError),
            (Submission(OWNER, mine.id, services.files(*[b"12"] * 4)), BatchFullError),
            (Submission(STRANGER, theirs.id, services.files(pattern(MIB + 1))), None),
            (Submission(OWNER, mine.id, services.files(b"13")), None),
        ]
        answers = await submit_all(services, *(submission for submission, _ in wanted))
        for answer, (submission, refusal) in zip(answers, wanted, strict=True):
            if refusal:
                assert type(answer) is refusal
            else:
                assert isinstance(answer, tuple)
                assert [upload.batch_id for upload in answer[1]] == [submission.batch_id] * len(submission.arrivals)
        assert await services.value(TRANSACTIONS) == 1
        kept = [upload for answer in answers if isinstance(answer, tuple) for upload in answer[1]]
        contents = [await services.content(upload.id, upload.user_id) for upload in kept]
        assert contents == [b"1", b"6", b"7", b"10", pattern(MIB + 1), b"13"]
        counts = [(await services.batches.get(b.user_id, b.id)).total_uploads for b in (mine, few, theirs, sealed)]
        assert counts == [2, 3, 1, 0]
        assert (await services.batches.get(OWNER, few.id)).sealed_at, "it sealed itself in the middle of the group"
        assert await services.value("SELECT count(*) FROM uploads") == len(kept)
        assert await services.counted_wrong() == []


async def test_a_batch_is_opened_filled_and_sealed_in_one_transaction(services: Services) -> None:
    batch_id = new_id()
    batch, uploads = await services.group.submit(
        Submission(OWNER, batch_id, services.files(b"1", b"2"), opens=True, seals=True)
    )
    assert (batch.id, batch.user_id, batch.version, batch.pending_uploads) == (batch_id, OWNER, 2, 2)
    assert batch.sealed_at
    assert batch.status is BatchStatus.PROCESSING
    assert batch == await services.batches.get(OWNER, batch_id)
    xmins = "SELECT xmin::text FROM upload_batches UNION SELECT xmin::text FROM uploads"
    assert len(await services.rows(xmins + " UNION SELECT xmin::text FROM boatload_queue.pgqueuer")) == 1
    assert len(uploads) == 2


async def test_sealing_behind_nothing_is_harmless_where_another_was_first(services: Services) -> None:
    batch = await services.open()
    await services.add(batch, b"1")
    (sealed, none), (again, _) = [
        await services.group.submit(Submission(OWNER, batch.id, [], seals=True)) for _ in range(2)
    ]
    assert sealed.sealed_at
    assert none == []
    assert again == sealed
    cancelled = await services.batches.cancel(OWNER, batch.id)
    assert (await services.group.submit(Submission(OWNER, batch.id, [], seals=True)))[0] == cancelled
    with pytest.raises(NotFoundError):
        await services.group.submit(Submission(STRANGER, batch.id, [], seals=True))


@pytest.mark.parametrize("call", ["create", "write", "sync"])
@pytest.mark.parametrize("error", [StorageFullError, StorageUnavailableError])
async def test_a_store_that_fails_fails_the_group_and_not_the_next(
    database_url: str, tmp_path: Path, call: str, error: type[BoatloadError]
) -> None:
    async with serving(
        database_url, tmp_path / "objects", store=(store := FlakyStore(tmp_path / "objects"))
    ) as services:
        batch = await services.open()
        if call != "create":
            await services.add(batch, b"before")

        def fail(now: str) -> None:
            if now == call:
                raise error

        store.before = fail
        answers = await submit_all(services, *(Submission(OWNER, batch.id, services.files(b"lost")) for _ in range(3)))
        assert [type(answer) for answer in answers] == [error] * 3
        store.before = lambda _call: None
        (upload,) = await services.add(batch, b"after")
        assert await services.content(upload.id) == b"after"
        assert await services.value("SELECT count(*) FROM uploads") == 1 + (call != "create")
        assert await services.counted_wrong() == []


async def test_a_database_that_fails_fails_the_group_and_not_the_next(services: Services) -> None:
    batch = await services.open()
    async with holding(services.dsn, "SELECT FROM upload_batches FOR UPDATE") as holder:
        lost = [Submission(OWNER, batch.id, services.files(b"lost")) for _ in range(3)]
        submitting = asyncio.create_task(submit_all(services, *lost))
        await holder.execute("SELECT pg_terminate_backend($1, 5000)", await someone_waiting(holder))
        assert [type(answer) for answer in await submitting] == [DatabaseUnavailableError] * 3
    (upload,) = await services.add(batch, b"after")
    assert await services.content(upload.id) == b"after"
    assert await services.value("SELECT count(*) FROM uploads") == 1
    assert await services.counted_wrong() == []


async def test_stop_answers_everyone_and_lets_the_pack_go(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path / "objects") as services:
        batch = await services.open()
        adding = [asyncio.create_task(services.add(batch, pattern(10, number))) for number in range(100)]
        await asyncio.sleep(0)
        services.group.stop()
        uploads = [upload for one in await asyncio.gather(*adding) for upload in one]
    assert len({upload.id for upload in uploads}) == 100
    assert uploads[0].object_id
    claim = services.store.claim_abandoned(uploads[0].object_id)
    assert claim, "nobody holds the pack any more"
    claim.release()


async def test_who_comes_after_the_stop_is_answered(services: Services) -> None:
    batch = await services.open()
    services.group.stop()
    for _ in range(2):
        with pytest.raises(StorageUnavailableError):
            await asyncio.wait_for(services.add(batch, b"late"), 5)
        await asyncio.sleep(0.1)


async def test_a_waiter_that_leaves_takes_nobody_along(services: Services) -> None:
    batch = await services.open()
    tasks = [asyncio.create_task(services.add(batch, b"%d" % number)) for number in range(10)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [True, False] * 5
    stayed = [answer[0] for answer in answers if isinstance(answer, list)]
    assert [await services.content(upload.id) for upload in stayed] == [b"1", b"3", b"5", b"7", b"9"]
    await services.add(batch, b"after")
    assert await services.counted_wrong() == []


async def test_a_pack_rolls_when_full_and_every_byte_stays_where_it_is(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path / "objects", pack_bytes=100_000) as services:
        batch = await services.open()
        contents = [pattern(30_000, number) for number in range(12)]
        uploads = [(await services.add(batch, content))[0] for content in contents]
        packs = [upload.object_id for upload in uploads]
        assert [packs.count(pack) for pack in dict.fromkeys(packs)] == [4, 4, 4]
        assert [await services.content(upload.id) for upload in uploads] == contents
        sizes = await services.rows("SELECT DISTINCT size_bytes FROM objects")
        assert sizes == [(3 * 32_768 + 30_000,)], "each group begins on a block of its own"


async def test_two_processes_on_the_same_batches_lose_nothing(database_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "objects"
    async with serving(database_url, folder) as one, serving(database_url, folder) as two:
        batches = [await one.open() for _ in range(6)]

        async def client(services: Services, seed: int) -> list[Upload]:
            order = random.Random(seed)
            kept = []
            for _ in range(10):
                kept += await services.add(order.choice(batches), *[pattern(100, seed)] * order.randrange(1, 4))
            return kept

        clients = (client(services, seed) for seed, services in enumerate([one, two] * 20))
        async with asyncio.timeout(60):
            kept = [upload for uploads in await asyncio.gather(*clients) for upload in uploads]
        assert await one.value("SELECT count(*) FROM uploads") == len(kept) == len({upload.id for upload in kept})
        for batch in batches:
            after = await one.batches.get(OWNER, batch.id)
            assert after.total_uploads == sum(upload.batch_id == batch.id for upload in kept)
        assert await one.counted_wrong() == []
        order = "SELECT count(*) FROM uploads GROUP BY batch_id, batch_version HAVING count(DISTINCT xmin::text) > 1"
        assert await one.rows(order) == [], "a version is one change, never two"
