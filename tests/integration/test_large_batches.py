"""What owners do with more uploads than one transaction takes: cancel them, or let them go on without their batch."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Final

import pytest

from app.domain.batch import Batch, BatchStatus
from app.domain.errors import BatchClosedError, NotFoundError
from app.domain.ids import new_id, utc_now
from app.domain.quota import Holding
from app.ingest.batches import BatchService
from tests.support.quotas import LARGE, used
from tests.support.resuming import declare
from tests.support.services import LIMITS, OWNER, Services, holding, serving, someone_waiting

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)

AT_ONCE: Final = 2
MAKE_OTHER_STATES: Final = (
    (
        "UPDATE uploads SET status = 'processing', attempts = 1, lease_expires_at = now() + interval '1 hour'"
        " WHERE filename IN ('3.bin', '4.bin')"
    ),
    "UPDATE uploads SET status = 'completed', attempts = 1, completed_at = now() WHERE filename = '5.bin'",
    (
        "UPDATE uploads SET received_bytes = 4, object_id = (SELECT id FROM objects LIMIT 1), object_offset = 0"
        " WHERE ref = 'begun'"
    ),
    (
        "UPDATE upload_batches SET pending_uploads = 3, processing_uploads = 2, successful_uploads = 1,"
        " processed_uploads = 1, received_bytes = received_bytes + 4"
    ),
)


class CrashError(Exception):
    """Stands for the end of a process between two transactions."""


class Clock:
    """Asked once for each transaction; once more than so often, and the process ends."""

    def __init__(self, transactions: int) -> None:
        self.left = transactions

    def __call__(self) -> datetime:
        self.left -= 1
        if self.left < 0:
            raise CrashError
        return utc_now()


@pytest.fixture
async def services(database_url: str, tmp_path: Path) -> AsyncIterator[Services]:
    async with serving(database_url, tmp_path / "objects") as services:
        await services.quotas.set(OWNER, LARGE)
        yield services
        await used(services)


async def batch_of_nine(services: Services) -> Batch:
    """Three pending, two processing, one completed, three receiving, of which one has 4 of its 10 bytes."""
    batch = await services.open()
    await services.add(batch, *(bytes([number]) for number in range(6)))
    for ref in ("a", "begun", "c"):
        await declare(services, 10, ref=ref, batch=batch)
    async with services.database.transaction() as connection:
        for change in MAKE_OTHER_STATES:
            await connection.execute(change)
    assert await used(services) == Holding(36, 9, 1, 3)
    return await services.batches.get(OWNER, batch.id)


def few_at_once(services: Services, *, transactions: int = 100) -> BatchService:
    clock = Clock(transactions)
    return BatchService(services.database, LIMITS, processors=frozenset(), clock=clock, new_id=new_id, at_once=AT_ONCE)


async def statuses(services: Services) -> list[str]:
    return [row["status"] for row in await services.rows("SELECT status FROM uploads ORDER BY status")]


async def test_many_are_cancelled_in_several_transactions(services: Services) -> None:
    batch = await batch_of_nine(services)
    cancelled = await few_at_once(services).cancel(OWNER, batch.id)
    assert cancelled == await services.batches.get(OWNER, batch.id)
    assert (cancelled.status, cancelled.version) == (BatchStatus.CANCELLED, batch.version + 4)
    assert (cancelled.cancelled_uploads, cancelled.successful_uploads) == (8, 1)
    assert (cancelled.total_bytes, cancelled.received_bytes) == (36, 6)
    assert await statuses(services) == ["cancelled"] * 8 + ["completed"]
    assert await services.value("SELECT count(*) FROM uploads WHERE lease_expires_at IS NOT NULL") == 0
    by_version = await services.rows("SELECT count(*) AS n FROM uploads GROUP BY batch_version ORDER BY batch_version")
    assert [row["n"] for row in by_version][-4:] == [2, 2, 2, 2]
    assert await used(services) == Holding(6, 6, 0, 0)


@pytest.mark.parametrize("transactions", [1, 2, 3])
async def test_a_cancel_that_was_cut_short_goes_on_when_it_is_asked_for_again(
    services: Services, transactions: int
) -> None:
    batch = await batch_of_nine(services)
    with pytest.raises(CrashError):
        await few_at_once(services, transactions=transactions).cancel(OWNER, batch.id)
    half = await services.batches.get(OWNER, batch.id)
    assert (half.status, half.cancelled_uploads) == (BatchStatus.PROCESSING, 2 * transactions)
    await used(services)
    with pytest.raises(BatchClosedError):
        await services.add(batch, b"more")
    cancelled = await few_at_once(services).cancel(OWNER, batch.id)
    assert (cancelled.status, cancelled.cancelled_uploads) == (BatchStatus.CANCELLED, 8)


async def test_a_batch_that_was_left_half_cancelled_ends_as_cancelled(services: Services) -> None:
    batch = await services.open()
    uploads = await services.add(batch, b"1", b"2", b"3")
    with pytest.raises(CrashError):
        await few_at_once(services, transactions=1).cancel(OWNER, batch.id)
    await services.pipeline.process([upload.id for upload in uploads])
    ended = await services.batches.get(OWNER, batch.id)
    assert (ended.status, ended.cancelled_uploads, ended.successful_uploads) == (BatchStatus.CANCELLED, 2, 1)


async def test_others_get_at_the_batch_between_two_transactions(services: Services) -> None:
    batch = await services.open()
    await services.add(batch, b"1", b"2", b"3", b"4", b"5")
    async with holding(services.dsn, "SELECT FROM upload_batches FOR UPDATE") as holder:
        cancelling = asyncio.create_task(few_at_once(services).cancel(OWNER, batch.id))
        await someone_waiting(holder)
        sealing = asyncio.create_task(services.batches.seal(OWNER, batch.id))
        await asyncio.sleep(0.1)
    assert (await cancelling).cancelled_uploads == 5
    assert (await sealing).status is BatchStatus.PROCESSING


async def test_many_go_on_without_their_batch_in_several_transactions(services: Services) -> None:
    batch = await batch_of_nine(services)
    before = {row["id"]: row["batch_version"] for row in await services.rows("SELECT id, batch_version FROM uploads")}
    await few_at_once(services).delete(OWNER, batch.id, with_uploads=False)
    with pytest.raises(NotFoundError):
        await services.batches.get(OWNER, batch.id)
    assert await statuses(services) == ["cancelled"] * 3 + ["completed"] + ["pending"] * 3 + ["processing"] * 2
    after = await services.rows("SELECT id, batch_id, batch_version FROM uploads")
    assert {(row["id"], row["batch_id"], row["batch_version"]) for row in after} == {
        (upload_id, None, version + 1) for upload_id, version in before.items()
    }
    assert await used(services) == Holding(6, 6, 0, 0)


@pytest.mark.parametrize("transactions", [1, 4])
async def test_a_deletion_that_was_cut_short_leaves_a_batch_of_the_rest(services: Services, transactions: int) -> None:
    batch = await batch_of_nine(services)
    with pytest.raises(CrashError):
        await few_at_once(services, transactions=transactions).delete(OWNER, batch.id, with_uploads=False)
    rest = await services.batches.get(OWNER, batch.id)
    assert (rest.status, rest.total_uploads) == (BatchStatus.PROCESSING, 9 - 2 * transactions)
    await used(services)
    await few_at_once(services).delete(OWNER, batch.id, with_uploads=False)
    assert await services.value("SELECT count(*) FROM uploads WHERE batch_id IS NULL") == 9
    assert await services.value("SELECT count(*) FROM upload_batches") == 0


async def test_inside_another_transaction_it_is_all_or_nothing(services: Services) -> None:
    batch = await batch_of_nine(services)

    async def cancel_and_crash() -> None:
        async with services.database.transaction() as connection:
            with services.database.joined(connection):
                assert (await few_at_once(services).cancel(OWNER, batch.id)).cancelled_uploads == 8
            raise CrashError

    with pytest.raises(CrashError):
        await cancel_and_crash()
    assert await services.batches.get(OWNER, batch.id) == batch
