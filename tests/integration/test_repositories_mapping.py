"""What is written comes back, field by field, however odd."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg
import pytest

from app.db.pool import Database
from app.domain.batch import Batch, BatchStatus, Tally, advance, new_batch
from app.domain.ids import new_id
from app.domain.upload import Attempt, Refusal, Upload, UploadStatus
from app.repositories.unit_of_work import UnitOfWork, reading, unit_of_work
from app.repositories.work import Finished
from tests.support.resuming import entry
from tests.support.services import OWNER, STRANGER

NOW: Final = datetime(2026, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC)
LATER: Final = NOW + timedelta(seconds=1)
HUGE: Final = 2**40
ODD: Final = "n\u0301 \N{PILE OF POO} \u202eabc\u200b\ufeff ' \" \\ $1 %s {0} \t\n"
METADATA: Final[dict[str, object]] = {
    "": None,
    ODD: [ODD, 1.5, -0.0, 2**53, True, {"deep": [[]]}],
    "k" * 2000: "\U0010ffff",
}
DIGEST: Final = bytes(range(32))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url, size=2)
    yield database
    await database.close()


async def opened(uow: UnitOfWork, **changes: object) -> Batch:
    batch = replace(new_batch(new_id(), OWNER, now=NOW, expires_at=NOW + timedelta(days=30)), **changes)  # type: ignore[arg-type]
    await uow.batches.insert(batch)
    return batch


def upload(batch_id: UUID | None, **changes: object) -> Upload:
    plain = Upload(
        id=new_id(),
        user_id=OWNER,
        batch_id=batch_id,
        ref=None,
        filename="a",
        status=UploadStatus.RECEIVING,
        size_bytes=None,
        received_bytes=0,
        content_type=None,
        detected_type=None,
        sha256=None,
        width=None,
        height=None,
        attempts=0,
        error=None,
        metadata={},
        object_id=None,
        object_offset=None,
        batch_version=1,
        created_at=NOW,
        updated_at=NOW,
        completed_at=None,
    )
    return plain._replace(**changes)  # type: ignore[arg-type]


async def test_a_batch_comes_back_as_it_was_opened(database: Database) -> None:
    async with unit_of_work(database) as uow:
        plain = await opened(uow)
        odd = await opened(uow, label=ODD, expected_uploads=2**31 - 1, metadata=METADATA)
        long = await opened(uow, label="x" * 100_000)
    async with reading(database) as uow:
        assert [await uow.batches.find(batch.id, OWNER) for batch in (plain, odd, long)] == [plain, odd, long]
        assert await uow.batches.find(plain.id, STRANGER) is None
        assert await uow.batches.find(new_id(), OWNER) is None


async def test_save_writes_every_field_that_may_change(database: Database) -> None:
    async with unit_of_work(database) as uow:
        first, other = await opened(uow), await opened(uow)
        moved = replace(
            first,
            status=BatchStatus.FAILED,
            total_uploads=9,
            processed_uploads=9,
            failed_uploads=9,
            total_bytes=HUGE * 9,
            received_bytes=HUGE,
            error_message=ODD,
            version=2**53,
            started_at=NOW - timedelta(days=1),
            sealed_at=NOW + timedelta(microseconds=1),
            completed_at=NOW + timedelta(days=1),
            updated_at=NOW + timedelta(days=2),
        )
        open_ = advance(other, Tally(1, 2, 3, 4, 5, 6, 7 * HUGE, 8 * HUGE), now=NOW)
        await uow.batches.save([moved, open_])
    async with reading(database) as uow:
        assert await uow.batches.find(first.id, OWNER) == moved
        assert await uow.batches.find(other.id, OWNER) == open_


async def saved_and_rolled_back(database: Database, batch: Batch) -> None:
    async with unit_of_work(database) as uow:
        await uow.batches.lock([batch.id])
        await uow.batches.save([advance(batch, Tally(), now=NOW)])
        raise ZeroDivisionError


async def test_save_notifies_once_for_each_batch_and_only_if_committed(database: Database, database_url: str) -> None:
    heard: list[str] = []
    listener = await asyncpg.connect(database_url)
    try:
        await listener.add_listener("boatload_batches", lambda *heard_of: heard.append(str(heard_of[3])))
        async with unit_of_work(database) as uow:
            batches = [await opened(uow), await opened(uow)]
        with pytest.raises(ZeroDivisionError):
            await saved_and_rolled_back(database, batches[0])
        async with unit_of_work(database) as uow:
            await uow.batches.lock([batch.id for batch in batches])
            await uow.batches.save([advance(batch, Tally(), now=NOW) for batch in batches])
        await listener.execute("SELECT 1")
    finally:
        await listener.close()
    assert sorted(heard) == sorted(f"{batch.id} 2" for batch in batches)


async def test_an_upload_comes_back_as_it_was_inserted(database: Database) -> None:
    object_id = new_id()
    refusal = Refusal("file-too-large", ODD)
    async with unit_of_work(database) as uow:
        batch, other = await opened(uow), await opened(uow)
        stored = {
            "size_bytes": HUGE,
            "received_bytes": HUGE,
            "sha256": DIGEST,
            "object_id": object_id,
            "object_offset": HUGE,
        }
        pending = {"status": UploadStatus.PENDING, **stored}
        failed = {"status": UploadStatus.FAILED, "error": refusal}
        inserted = [
            upload(batch.id, filename=ODD, content_type="text/plain; charset=utf-8", ref=ODD, **pending),
            upload(batch.id, **pending),
            upload(other.id, batch_version=2**53, **pending),
            upload(other.id, user_id=STRANGER, **pending),
            upload(batch.id, ref="late", created_at=LATER, updated_at=LATER, **pending),
            upload(batch.id, filename="", completed_at=NOW, **failed),
            upload(other.id, created_at=LATER, updated_at=LATER, completed_at=LATER, **failed),
        ]
        before = {batch.id: batch, other.id: other}
        moved = [advance(one, Tally(), now=NOW) for one in before.values()]
        assert await uow.arrivals.keep(before, moved, inserted, [(object_id, HUGE * 2)], [], alone=False)
    async with reading(database) as uow:
        assert await uow.objects.existing([object_id]) == {object_id}
        assert [await uow.uploads.find(one.id, one.user_id) for one in inserted] == inserted
        assert await uow.uploads.find(inserted[0].id, STRANGER) is None
        in_batch = [one for one in inserted if one.batch_id == batch.id]
        page = await uow.uploads.list_page(batch.id, OWNER, status=None, after=UUID(int=0), limit=100)
        assert page == sorted(in_batch, key=lambda one: one.id)
        page = await uow.uploads.list_page(batch.id, OWNER, status=UploadStatus.FAILED, after=UUID(int=0), limit=100)
        assert page == [one for one in in_batch if one.status is UploadStatus.FAILED]
        assert await uow.uploads.list_page(batch.id, STRANGER, status=None, after=UUID(int=0), limit=100) == []


async def test_claim_and_finish_return_and_leave_what_they_say(database: Database) -> None:
    object_id = new_id()
    async with unit_of_work(database) as uow:
        batch = await opened(uow)
        good, bad = (
            upload(
                batch.id,
                status=UploadStatus.PENDING,
                size_bytes=3,
                received_bytes=3,
                sha256=DIGEST,
                object_id=object_id,
                object_offset=0,
                filename=name,
            )
            for name in ("good", "bad")
        )
        moved = advance(batch, Tally(pending=2, total_bytes=6, received_bytes=6), now=NOW)
        assert await uow.arrivals.keep({batch.id: batch}, [moved], [good, bad], [(object_id, 3)], [], alone=True)
        later = NOW + timedelta(seconds=5)
        claimed = await uow.work.claim(
            [good.id, bad.id],
            lease=timedelta(seconds=9),
            max_attempts=5,
            lost=Refusal("worker-lost", ODD),
            exhausted=Refusal("attempts-exhausted", ODD),
            versions={batch.id: 3},
            now=later,
        )
        taken = {"status": UploadStatus.PROCESSING, "attempts": 1, "updated_at": later, "batch_version": 3}
        taken_up = {claim.upload.id: claim.upload for claim in claimed}
        assert taken_up == {one.id: one._replace(**taken) for one in (good, bad)}
        assert {claim.status_before for claim in claimed} == {UploadStatus.PENDING}
        ended = await uow.work.finish(
            [
                Finished(taken_up[good.id], None, "text/plain", 3, 2**31 - 1, METADATA),
                Finished(taken_up[bad.id], Refusal("processor-failed", ODD)),
            ],
            versions={batch.id: 4},
            now=later,
            worker=ODD,
        )
        assert sorted(ended) == [(batch.id, UploadStatus.COMPLETED), (batch.id, UploadStatus.FAILED)]
        over = {"attempts": 1, "updated_at": later, "completed_at": later, "batch_version": 4}
        assert await uow.uploads.find(good.id, OWNER) == good._replace(
            **over,
            status=UploadStatus.COMPLETED,
            detected_type="text/plain",
            width=3,
            height=2**31 - 1,
            metadata=METADATA,
        )
        assert await uow.uploads.find(bad.id, OWNER) == bad._replace(
            **over, status=UploadStatus.FAILED, error=Refusal("processor-failed", ODD)
        )
        assert await uow.attempts.list_page(good.id, after=0, limit=9) == []
        noted = Attempt(1, later, Refusal("processor-failed", ODD), ODD)
        assert await uow.attempts.list_page(bad.id, after=0, limit=9) == [noted]
        assert await uow.attempts.list_page(bad.id, after=1, limit=9) == []


async def pages(database: Database, status: BatchStatus | None) -> list[UUID]:
    seen: list[Batch] = []
    before = (NOW + timedelta(days=1), UUID(int=0))
    async with reading(database) as uow:
        while page := await uow.batches.list_page(OWNER, status=status, before=before, limit=7):
            seen += page
            before = (page[-1].created_at, page[-1].id)
    return [batch.id for batch in seen]


async def test_pages_of_batches_are_newest_first_without_gap_or_repeat(database: Database) -> None:
    async with unit_of_work(database) as uow:
        made = [await opened(uow, created_at=NOW + timedelta(seconds=number // 3)) for number in range(20)]
        await opened(uow, user_id=STRANGER)
        await uow.batches.save([advance(made[number], Tally(), now=NOW, seal=True) for number in (3, 4, 11)])
    newest_first = [batch.id for batch in sorted(made, key=lambda batch: (batch.created_at, batch.id), reverse=True)]
    assert await pages(database, None) == newest_first
    completed = {made[number].id for number in (3, 4, 11)}
    assert await pages(database, BatchStatus.COMPLETED) == [one for one in newest_first if one in completed]
    assert await pages(database, BatchStatus.CANCELLED) == []


async def test_a_receiving_upload_moves_on_from_the_batch_as_it_is_when_its_lock_comes(database: Database) -> None:
    async with unit_of_work(database) as uow:
        batch = await opened(uow)
        receiving = upload(batch.id, size_bytes=100)
        await uow.receiving.insert(
            [receiving], [entry("a", 100)], user_id=OWNER, batch_id=batch.id, version=2, now=NOW, expires_at=None
        )
        batch = advance(batch, Tally(receiving=1, total_bytes=100), now=NOW)
        await uow.batches.save([batch])
    object_id = new_id()

    async def move(known: Upload, received: int) -> int | None:
        async with reading(database) as uow:
            return await uow.receiving.move(known, received, object_id, now=LATER)

    async with unit_of_work(database) as uow:
        await uow.batches.lock([batch.id])
        moving = asyncio.create_task(move(receiving, 40))
        await asyncio.wait_for(waits_for_a_lock(uow), 20)
        await uow.batches.save([advance(batch, Tally(received_bytes=7), now=NOW)])
    assert await moving == batch.version + 2
    async with reading(database) as uow:
        assert await uow.batches.find(batch.id, OWNER) == replace(
            batch, version=batch.version + 2, received_bytes=47, updated_at=LATER
        )
        moved = await uow.uploads.find(receiving.id, OWNER)
        assert moved == receiving._replace(
            received_bytes=40, object_id=object_id, object_offset=0, batch_version=batch.version + 2, updated_at=LATER
        )
    assert await move(receiving, 50) is None, "it is not as it was"
    assert await move(moved._replace(object_id=new_id()), 50) is None, "another writer is at another object"
    assert await move(moved, 100) == batch.version + 3
    async with unit_of_work(database) as uow:
        (now,) = (await uow.batches.lock([batch.id])).values()
        assert now.received_bytes == 107
        await uow.batches.save([replace(now, status=BatchStatus.CANCELLED, completed_at=LATER, version=9)])
    assert await move(moved._replace(received_bytes=100), 100) is None, "the batch is cancelled"
    async with reading(database) as uow:
        assert (await uow.batches.list_by_ids([batch.id]))[0].version == 9


async def waits_for_a_lock(uow: UnitOfWork) -> None:
    while not await uow.connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
        await asyncio.sleep(0.005)
