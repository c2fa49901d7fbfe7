"""Quotas: what an owner holds is counted exactly, and is never more than allowed, whoever sends at the same time."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.db.pool import Database
from app.domain.batch import Batch
from app.domain.errors import BatchClosedError, BoatloadError, QuotaExceededError
from app.domain.quota import Holding, Quota, Standing
from app.domain.upload import Upload
from app.ingest.quotas import QuotaService
from app.ingest.single import Body
from app.ingest.submission import Kept, Submission
from app.repositories.quota_usage import NOBODY
from tests.support.quotas import KIB, LARGE, used
from tests.support.resuming import Broken, Slow, body, declare, entry
from tests.support.services import (
    MIB,
    OWNER,
    STRANGER,
    Services,
    chunks,
    multipart,
    pattern,
    serving,
)

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)


@pytest.fixture
async def services(database_url: str, tmp_path: Path) -> AsyncIterator[Services]:
    async with serving(database_url, tmp_path / "objects") as services:
        yield services


async def put(services: Services, batch: Batch, name: str, data: bytes) -> Upload:
    upload, _ = await services.single_files.put(batch.user_id, batch.id, name, Body(body(data), len(data)))
    return upload


async def test_nothing_is_counted_until_a_quota_is_set_and_then_all_that_is_held(services: Services) -> None:
    batch = await services.open()
    await services.add(batch, b"1234", b"56")
    await declare(services, 100)
    await services.open(owner=STRANGER)
    assert await services.value("SELECT count(*) FROM quota_usage") == 0
    assert await services.quotas.find(OWNER) is None
    await services.quotas.set(STRANGER, Quota(files=1))
    assert await services.quotas.find(OWNER) == Standing(Holding(106, 3, 2, 1), Quota())
    assert await services.quotas.find(STRANGER) == Standing(Holding(0, 0, 1, 0), Quota(files=1))
    assert await used(services) == Holding(106, 3, 2, 1)


async def test_counting_begins_among_senders_and_misses_none(services: Services) -> None:
    batches = [await services.open() for _ in range(4)]

    async def send(number: int) -> None:
        await asyncio.sleep(number / 1000)
        await services.add(batches[number % 4], pattern(number, number))
        await declare(services, number, ref=str(number))

    sending = [asyncio.create_task(send(number)) for number in range(200)]
    await asyncio.sleep(0.1)
    assert not all(task.done() for task in sending)
    database = await Database.open(services.dsn, size=1)
    quotas = QuotaService(database)
    await quotas.begin(LARGE)
    begun = await quotas.find(OWNER)
    await asyncio.gather(*sending)
    await database.close()
    after = await used(services)
    assert begun
    assert begun.used.files <= after.files == 400
    assert after == Holding(2 * sum(range(200)), 400, 204, 200)


async def test_a_quota_of_ones_own_goes_before_that_of_everybody(services: Services) -> None:
    await services.quotas.begin(Quota(bytes=10, files=2))
    await services.quotas.set(OWNER, Quota(bytes=20))
    standing = await services.quotas.find(OWNER)
    assert standing
    assert standing.quota == Quota(bytes=20, files=2)
    assert await services.quotas.list_all() == {NOBODY: Quota(bytes=10, files=2), OWNER: Quota(bytes=20)}
    mine, theirs = await services.open(), await services.open(owner=STRANGER)
    await services.add(mine, bytes(15))
    with pytest.raises(QuotaExceededError) as caught:
        await services.add(theirs, bytes(11))
    assert caught.value.facts == {"quota": "bytes", "limit": 10, "used": 0}


async def test_of_a_body_the_files_that_fit_are_kept_and_each_other_one_is_refused(services: Services) -> None:
    await services.quotas.set(OWNER, Quota(bytes=100, files=4))
    receipt = await services.receive(chunks(multipart(bytes(60), bytes(41), bytes(30), b"", bytes(10), b"1", b"2")))
    errors = [upload.error and upload.error.code for upload in receipt.outcomes]
    assert errors == [None, "quota-exceeded", None, None, None, "quota-exceeded", "quota-exceeded"]
    assert receipt.batch
    assert (receipt.batch.total_uploads, receipt.batch.failed_uploads, receipt.batch.received_bytes) == (7, 3, 100)
    assert await used(services) == Holding(100, 4, 1, 0)
    assert [len(await services.content(one.id)) for one in receipt.outcomes if not one.error] == [60, 30, 0, 10]


async def test_neighbours_in_a_group_are_kept(services: Services) -> None:
    await services.quotas.set(OWNER, Quota(bytes=10, open_batches=3))
    mine, sealed, theirs = await services.open(), await services.open(), await services.open(owner=STRANGER)
    await services.batches.seal(OWNER, sealed.id)
    wanted: list[tuple[Submission, type[BoatloadError] | None]] = [
        (Submission(OWNER, mine.id, services.files(bytes(6))), None),
        (Submission(OWNER, mine.id, services.files(bytes(5))), QuotaExceededError),
        (Submission(STRANGER, theirs.id, services.files(bytes(500))), None),
        (Submission(OWNER, sealed.id, services.files(b"")), BatchClosedError),
        (Submission(OWNER, mine.id, services.files(b"1", b"2", b"345")), QuotaExceededError),
        (Submission(OWNER, mine.id, services.files(b"6789")), None),
    ]
    kept: list[Kept | BaseException] = await asyncio.gather(
        *(services.group.submit(submission) for submission, _ in wanted), return_exceptions=True
    )
    assert [type(one) if isinstance(one, BaseException) else None for one in kept] == [error for _, error in wanted]
    assert await used(services) == Holding(10, 2, 1, 0)
    assert await used(services, STRANGER) == Holding(500, 1, 1, 0)


async def test_too_many_open_batches_are_refused_and_a_finished_one_makes_room(services: Services) -> None:
    await services.quotas.set(OWNER, Quota(open_batches=2))
    first, _ = await services.open(), await services.open()
    with pytest.raises(QuotaExceededError):
        await services.open()
    receipt = await services.receive(chunks(multipart(b"x")))
    assert receipt.error
    assert receipt.error.code == "quota-exceeded"
    assert receipt.batch is None
    await services.batches.seal(OWNER, first.id)
    assert (await used(services)).open_batches == 1
    assert (await services.receive(chunks(multipart(b"x")))).error is None
    assert await used(services) == Holding(1, 1, 2, 0)


async def test_declared_bytes_are_reserved_all_or_none(services: Services) -> None:
    await services.quotas.set(OWNER, Quota(bytes=100, open_uploads=2))
    batch = await services.open()
    await services.manifests.declare(OWNER, batch.id, [entry("a", 60)])
    with pytest.raises(QuotaExceededError) as caught:
        await services.manifests.declare(OWNER, batch.id, [entry("b", 10), entry("c", 31)])
    assert caught.value.facts == {"quota": "bytes", "limit": 100, "used": 60}
    with pytest.raises(QuotaExceededError, match="still to come"):
        await services.manifests.declare(OWNER, batch.id, [entry("b", 1), entry("c", 1)])
    assert await used(services) == Holding(60, 1, 1, 1)
    with pytest.raises(QuotaExceededError):
        await put(services, batch, "d", bytes(41))
    await put(services, batch, "a", bytes(60))
    assert await used(services) == Holding(60, 1, 1, 0)


async def test_a_size_that_is_said_late_is_reserved_then_and_one_never_said_as_it_comes(services: Services) -> None:
    await services.quotas.set(OWNER, Quota(bytes=10 * KIB))
    late, never = await declare(services, None, ref="late"), await declare(services, None, ref="never")
    after = await services.resumable.append(OWNER, never.id, offset=0, body=body(bytes(6 * KIB)), length=6 * KIB)
    assert after.received_bytes == 6 * KIB
    assert await used(services) == Holding(6 * KIB, 2, 2, 2)
    with pytest.raises(QuotaExceededError):
        await services.resumable.append(OWNER, late.id, offset=0, body=body(b""), length=0, final_size=5 * KIB)
    with pytest.raises(QuotaExceededError):
        await services.resumable.append(OWNER, never.id, offset=6 * KIB, body=body(bytes(5 * KIB)), length=5 * KIB)
    assert (await services.resumable.get(OWNER, never.id)).received_bytes == 6 * KIB
    assert await used(services) == Holding(6 * KIB, 2, 2, 2)
    await services.resumable.append(OWNER, never.id, offset=6 * KIB, body=body(bytes(4 * KIB)), length=4 * KIB)
    assert await used(services) == Holding(10 * KIB, 2, 2, 2)


async def test_bytes_over_a_quota_leave_nothing_in_the_store(services: Services) -> None:
    await services.quotas.set(OWNER, Quota(bytes=3 * MIB))
    batch = await services.open()
    await services.add(batch, pattern(2 * MIB))
    objects = set(services.store.list())
    receipt = await services.receive(chunks(multipart(pattern(2 * MIB, 1))), batch.id)
    assert [one.error and one.error.code for one in receipt.outcomes] == ["quota-exceeded"]
    with pytest.raises(QuotaExceededError):
        await services.add(batch, pattern(2 * MIB, 2))
    with pytest.raises(QuotaExceededError):
        await put(services, batch, "third", pattern(2 * MIB, 3))
    assert set(services.store.list()) == objects
    assert await used(services) == Holding(2 * MIB, 1, 1, 0)


async def test_small_files_over_a_quota_are_not_written_into_the_pack(services: Services) -> None:
    """There they could not be removed from, while anything else lies in it."""
    await services.quotas.set(OWNER, Quota(bytes=10 * KIB))
    batch = await services.open()
    await services.add(batch, pattern(9 * KIB))
    (pack,) = services.folder.glob("*/*")
    size = pack.stat().st_size
    for number in range(5):
        with pytest.raises(QuotaExceededError):
            await services.add(batch, pattern(2 * KIB, number))
        await put(services, batch, f"empty {number}", b"")
        receipt = await services.receive(chunks(multipart(pattern(2 * KIB, number))), batch.id)
        assert receipt.outcomes[0].error
        with pytest.raises(QuotaExceededError):
            await put(services, batch, f"small {number}", pattern(2 * KIB, number))
    assert [(one, one.stat().st_size) for one in services.folder.glob("*/*")] == [(pack, size)]


async def test_what_is_refused_takes_no_bytes_from_a_file_of_another_owner_and_batch(services: Services) -> None:
    """Two of the same bytes in one group are written once, by the one that is refused."""
    await services.quotas.set(OWNER, Quota(files=2))
    first, second = await services.open(), await services.open()
    same = pattern(2 * MIB)
    over = Submission(OWNER, first.id, services.files(same, b"1", b"2"))
    fits = Submission(OWNER, second.id, services.files(same))
    refused, kept = await asyncio.gather(*map(services.group.submit, (over, fits)), return_exceptions=True)
    assert isinstance(refused, QuotaExceededError)
    assert not isinstance(kept, BaseException)
    assert await services.content(kept[1][0].id) == same
    assert await used(services) == Holding(2 * MIB, 1, 2, 0)


async def test_the_bytes_of_a_long_body_are_reserved_before_they_are_read(services: Services) -> None:
    await services.quotas.set(OWNER, Quota(bytes=3 * MIB))
    batch = await services.open()
    slow = Slow(bytes(MIB), bytes(MIB))
    sending = asyncio.create_task(services.single_files.put(OWNER, batch.id, "slow", Body(slow.__aiter__(), 2 * MIB)))
    await slow.given.wait()
    read = []

    async def watched() -> AsyncIterator[bytes]:
        read.append(True)
        yield bytes(2 * MIB)

    with pytest.raises(QuotaExceededError):
        await services.single_files.put(OWNER, batch.id, "other", Body(watched(), 2 * MIB))
    assert not read
    slow.go_on.set()
    await sending
    assert await used(services) == Holding(2 * MIB, 1, 1, 0)


async def test_a_body_that_breaks_off_gives_its_room_back(services: Services) -> None:
    await services.quotas.set(OWNER, Quota(bytes=2 * MIB))
    batch = await services.open()
    with pytest.raises(Broken):
        await services.single_files.put(OWNER, batch.id, "a", Body(body(bytes(MIB), breaks=True), 2 * MIB))
    await put(services, batch, "b", bytes(2 * MIB))
    assert await used(services) == Holding(2 * MIB, 1, 1, 0)


async def test_a_lowered_quota_takes_nothing_away_and_lets_nothing_in(services: Services) -> None:
    await services.quotas.set(OWNER, Quota(bytes=100))
    batch = await services.open()
    first, _ = await services.add(batch, bytes(60), bytes(40))
    await services.quotas.set(OWNER, Quota(bytes=50))
    with pytest.raises(QuotaExceededError):
        await services.add(batch, b"x")
    await services.add(batch, b"")
    await services.uploads.delete(OWNER, first.id)
    await services.add(batch, bytes(10))
    assert await used(services) == Holding(50, 3, 1, 0)
