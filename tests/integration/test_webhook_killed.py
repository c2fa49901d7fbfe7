"""A deliverer that is lost between sending and writing down: the message comes again, under its id."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from app.db.pool import Database
from app.domain.ids import utc_now
from app.domain.webhook import DeliveryStatus
from tests.support.server import ROOT
from tests.support.services import OWNER
from tests.support.webhooks import (
    Message,
    answering,
    deliverer,
    deliveries,
    ended,
    hang,
    log_of,
    receiving,
    service,
    settled,
)

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url, size=4)
    yield database
    await database.close()


async def run_out(database: Database) -> None:
    """Let every lease end now."""
    async with database.connection() as connection:
        await connection.execute("UPDATE webhook_deliveries SET due_at = now()")


async def test_what_was_sent_and_not_written_down_is_sent_again_under_its_id(
    database: Database, database_url: str
) -> None:
    command = [sys.executable, "-m", "tests.support.delivering", database_url]
    process = await asyncio.to_thread(subprocess.Popen, command, cwd=ROOT)

    async def kill(message: Message, writer: asyncio.StreamWriter) -> None:
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)
        await answering(204)(message, writer)

    try:
        async with receiving(kill, answering(204)) as receiver:
            await ended(database, receiver.url())
            await receiver.got(1, seconds=60)
            await asyncio.to_thread(process.wait)
            (row,) = await deliveries(database)
            assert (row["status"], row["sending"], row["attempts"]) == (DeliveryStatus.PENDING, True, 1)
            lease = row["due_at"] - utc_now()
            assert timedelta(seconds=5) < lease <= timedelta(seconds=20)
            async with deliverer(database, run=False) as other:
                assert await other.deliver_due() == 0, "until the lease ends it may still be at work"
                await run_out(database)
                assert await other.deliver_due() == 1
                (row,) = await settled(database)
            first, second = receiver.messages
    finally:
        process.kill()
        process.wait()
    assert first.id == second.id == str(row["id"])
    assert first.body == second.body
    lost, kept = log_of(row)
    assert set(lost) == {"number", "at"}
    assert (kept["number"], kept["status_code"], row["status"]) == (2, 204, DeliveryStatus.DELIVERED)
    shown = await service(database).get_delivery(OWNER, row["id"])
    assert [(one.number, one.status_code, one.duration_seconds is None) for one in shown.log] == [
        (1, None, True),
        (2, 204, False),
    ]


async def test_who_lost_the_lease_writes_nothing_over_what_came_after(database: Database) -> None:
    let_go = asyncio.Event()

    async def late(message: Message, writer: asyncio.StreamWriter) -> None:
        await let_go.wait()
        await answering(500)(message, writer)

    async with receiving(late, answering(204)) as receiver:
        await ended(database, receiver.url())
        async with deliverer(database, run=False) as slow, deliverer(database, run=False) as quick:
            await slow.deliver_due()
            await receiver.got(1)
            await run_out(database)
            await quick.deliver_due()
            await quick.end()
            let_go.set()
            await slow.end()
    (row,) = await deliveries(database)
    assert (row["status"], row["attempts"], row["failures"]) == (DeliveryStatus.DELIVERED, 2, 0)
    assert [entry.get("status_code") for entry in log_of(row)] == [None, 204]


async def test_a_deliverer_that_is_stopped_leaves_what_it_was_sending_for_the_next(database: Database) -> None:
    async with receiving(hang, answering(204)) as receiver:
        await ended(database, receiver.url())
        async with deliverer(database, seconds=60):
            await receiver.got(1)
        (row,) = await deliveries(database)
        assert (row["status"], row["sending"]) == (DeliveryStatus.PENDING, True)
        await run_out(database)
        async with deliverer(database):
            (row,) = await settled(database)
    assert row["status"] == DeliveryStatus.DELIVERED
    assert {message.id for message in receiver.messages} == {str(row["id"])}
