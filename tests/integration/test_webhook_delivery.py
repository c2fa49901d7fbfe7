"""What each kind of receiver brings about: sent over a real socket, from a real outbox."""

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from email.utils import format_datetime
from statistics import median
from typing import Any, Final

import pytest
from standardwebhooks import WebhookVerificationError

from app.db.pool import Database
from app.domain.ids import utc_now
from app.domain.webhook import DeliveryStatus, EventType
from app.webhooks.deliverer import PER_RECEIVER
from app.webhooks.policy import DeliveryPolicy
from tests.support.services import OWNER
from tests.support.webhooks import (
    DAY,
    Behaviour,
    answering,
    babble,
    cut,
    deliverer,
    deliveries,
    drip,
    ended,
    endless,
    hang,
    log_of,
    logged,
    receiving,
    sending,
    service,
    settled,
)

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)

FINE: Final = answering(204)
DELIVERED, GIVEN_UP, PENDING = DeliveryStatus.DELIVERED, DeliveryStatus.GIVEN_UP, DeliveryStatus.PENDING


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url, size=8)
    yield database
    await database.close()


async def test_a_message_is_what_the_specification_says(database: Database) -> None:
    async with receiving() as receiver, deliverer(database):
        endpoint, secrets = await service(database).create(OWNER, receiver.url(), list(EventType))
        (batch_id,) = await ended(database)
        (row,) = await settled(database)
        (message,) = receiver.messages
    assert message.target == "/hook?token=s3cret"
    assert message.headers["content-type"] == "application/json"
    assert message.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert message.id == str(row["id"])
    assert abs(int(message.headers["webhook-timestamp"]) - utc_now().timestamp()) < 60
    body = message.verified(secrets.current)
    assert (body["type"], body["data"]["id"], body["data"]["status"]) == (
        "batch.completed",
        str(batch_id),
        "completed",
    )
    assert (row["status"], row["endpoint_id"], row["attempts"], row["failures"]) == (DELIVERED, endpoint.id, 1, 0)
    (entry,) = log_of(row)
    assert (entry["number"], entry["status_code"], entry["error"]) == (1, 204, None)
    assert 0 <= entry["duration_seconds"] < 5
    with pytest.raises(WebhookVerificationError):
        message.verified("whsec_" + "A" * 44)


OUTCOMES: Final[dict[str, tuple[list[Behaviour], list[object]]]] = {
    "any 2xx": ([answering(299)], [299]),
    "an endless body": ([endless], [200]),
    "a body that drips": ([drip], [200]),
    "a failure, then not": ([answering(500), answering(404), answering(400), FINE], [500, 404, 400, 204]),
    "a redirect": (
        [answering(302, "Location: http://127.0.0.1:1/"), answering(308, "Location: /x"), FINE],
        [302, 308, 204],
    ),
    "a cut answer": ([cut, FINE], ["RemoteProtocolError", 204]),
    "no answer": ([hang, FINE], ["no answer within 0.4 seconds", 204]),
    "a header without end": ([babble, FINE], ["no answer within 0.4 seconds", 204]),
    "a header beyond measure": ([answering(200, f"X: {'x' * 300_000}"), FINE], ["RemoteProtocolError", 204]),
    "no HTTP": ([answering(99), FINE], ["RemoteProtocolError", 204]),
}


@pytest.mark.parametrize("name", OUTCOMES)
async def test_a_receiver_that_gets_there_has_it_delivered(database: Database, name: str) -> None:
    behaviours, results = OUTCOMES[name]
    async with receiving(*behaviours) as receiver, deliverer(database, seconds=0.4):
        await ended(database, receiver.url())
        (row,) = await settled(database)
    assert row["status"] == DELIVERED
    found = [entry["status_code"] or entry["error"] for entry in log_of(row)]
    assert len(found) == len(results) == len(receiver.messages)
    for one, result in zip(found, results, strict=True):
        assert one == result or str(one).startswith(str(result)), found
    assert {message.id for message in receiver.messages} == {str(row["id"])}
    assert {message.target for message in receiver.messages} == {"/hook?token=s3cret"}, "no redirect is followed"


async def test_a_body_is_not_read_on(postgres_version: str) -> None:
    async with receiving(endless) as receiver, sending(seconds=60) as sender, asyncio.timeout(20):
        assert (await sender.send(receiver.url(), {}, b"{}")).status_code == 200


async def test_a_receiver_that_is_down_has_it_when_it_is_back(database: Database) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    async with deliverer(database):
        await ended(database, f"http://127.0.0.1:{port}/")
        row = await logged(database, 3)
        assert all("ConnectError" in entry["error"] for entry in log_of(row)[:3])
        async with receiving(port=port) as receiver:
            (row,) = await settled(database)
            assert row["status"] == DELIVERED
            assert len(receiver.messages) == 1


async def test_a_receiver_that_is_gone_is_told_nothing_more(database: Database) -> None:
    webhooks = service(database)
    async with receiving(answering(410)) as receiver:
        endpoint, _ = await webhooks.create(OWNER, receiver.url(), list(EventType))
        await ended(database, count=3)
        async with deliverer(database, run=False) as one:
            assert await one.deliver_due() == 3
            rows = await settled(database, count=3)
        assert {row["status"] for row in rows} == {GIVEN_UP}
        assert any(row["reason"] == "the receiver answered 410: it wants no more messages" for row in rows)
        assert (await webhooks.get(OWNER, endpoint.id)).disabled_at is not None
        await ended(database)
        assert len(await deliveries(database)) == 3


async def test_410_gives_up_what_waits_for_the_same_webhook(database: Database) -> None:
    async with receiving(answering(410)) as receiver, deliverer(database):
        await service(database).create(OWNER, receiver.url(), list(EventType))
        await ended(database, count=200)
        rows = await settled(database, count=200)
    assert {row["status"] for row in rows} == {GIVEN_UP}
    assert {row["reason"] for row in rows} == {
        "the receiver answered 410: it wants no more messages",
        "the receiver answered 410 to another message",
    }
    assert len(receiver.messages) < 200


RETRY_AFTER: Final = {
    "429 in seconds": (429, "7200", timedelta(hours=2)),
    "503 in seconds": (503, "7200", timedelta(hours=2)),
    "503 until a date": (503, "{in three hours}", timedelta(hours=3)),
    "beyond what is allowed": (429, "999999999999", timedelta(hours=4)),
    "sooner than we would": (503, "0", timedelta(0)),
    "no time at all": (503, "soon", timedelta(0)),
    "of a status that says nothing of it": (500, "7200", timedelta(0)),
}


@pytest.mark.parametrize("name", RETRY_AFTER)
async def test_retry_after_is_honoured_within_bounds(database: Database, name: str) -> None:
    status, value, wait = RETRY_AFTER[name]
    value = value.replace("{in three hours}", format_datetime(utc_now() + timedelta(hours=3), usegmt=True))
    async with receiving(answering(status, f"Retry-After: {value}")) as receiver:
        await ended(database, receiver.url())
        async with deliverer(database, run=False) as one:
            await one.deliver_due()
            row = await logged(database, 1)
    assert row["status"] == PENDING
    assert abs(row["due_at"] - utc_now() - wait) < timedelta(minutes=2)


async def test_after_a_day_it_is_given_up_with_the_reason(database: Database) -> None:
    async with receiving(answering(500)) as receiver, deliverer(database, policy=DeliveryPolicy(DAY)):
        await ended(database, receiver.url())
        row = await logged(database, 1)
        assert row["status"] == PENDING
        assert timedelta(0) < row["due_at"] - utc_now() <= timedelta(seconds=5)
        async with database.connection() as connection:
            await connection.execute(
                "UPDATE webhook_deliveries SET begun_at = begun_at - $1::interval, due_at = now()", DAY
            )
        (row,) = await settled(database)
    assert (row["status"], row["reason"]) == (GIVEN_UP, "tried for 24 hours; last: the receiver answered 500")
    assert len(receiver.messages) == 2


async def test_a_message_is_sent_again_on_demand_under_its_id(database: Database) -> None:
    webhooks = service(database)
    async with receiving(answering(410), FINE) as receiver, deliverer(database):
        await ended(database, receiver.url())
        (row,) = await settled(database)
        assert row["status"] == GIVEN_UP
        again = await webhooks.redeliver(OWNER, row["id"])
        assert (again.status, again.reason, again.finished_at) == (PENDING, None, None)
        (row,) = await settled(database)
        assert row["status"] == DELIVERED
        await webhooks.redeliver(OWNER, row["id"])
        await receiver.got(3)
    first, second, third = receiver.messages
    assert first.id == second.id == third.id
    assert first.body == second.body == third.body
    assert [entry["number"] for entry in log_of((await deliveries(database))[0])] == [1, 2, 3]


async def test_what_is_being_sent_is_not_sent_again_beside_that(database: Database) -> None:
    async with receiving(hang) as receiver, deliverer(database, run=False) as one:
        await ended(database, receiver.url())
        assert await one.deliver_due() == 1
        await receiver.got(1)
        (row,) = await deliveries(database)
        await service(database).redeliver(OWNER, row["id"])
        assert await one.deliver_due() == 0
        assert receiver.connections == 1


async def test_a_deleted_webhook_is_told_nothing_that_waits_and_what_got_through_is_delivered(
    database: Database,
) -> None:
    webhooks = service(database)
    let_go = asyncio.Event()

    async def slow(message: Any, writer: asyncio.StreamWriter) -> None:  # noqa: ANN401 - see Behaviour
        await let_go.wait()
        await FINE(message, writer)

    async with receiving(slow) as receiver, deliverer(database, run=False) as one:
        endpoint, _ = await webhooks.create(OWNER, receiver.url(), list(EventType))
        await ended(database, count=PER_RECEIVER + 3)
        assert await one.deliver_due() == PER_RECEIVER
        await receiver.got(PER_RECEIVER)
        await webhooks.delete(OWNER, endpoint.id)
        let_go.set()
        await one.end()
        rows = await deliveries(database)
        assert await one.deliver_due() == 0
    assert sorted((row["status"], row["reason"]) for row in rows) == [
        *[(DELIVERED, None)] * PER_RECEIVER,
        *[(GIVEN_UP, "the webhook was deleted")] * 3,
    ]


async def test_a_slow_receiver_keeps_nobody_else_waiting(database: Database) -> None:
    async with receiving(hang) as slow, receiving() as quick, deliverer(database, seconds=60) as one:
        await ended(database, slow.url(), count=300)
        await slow.got(PER_RECEIVER)
        await ended(database, quick.url(), count=100)
        await quick.got(100)
        assert slow.most_open == slow.connections == PER_RECEIVER
        assert quick.most_open <= PER_RECEIVER
        assert len({message.id for message in quick.messages}) == len(quick.messages) == 100
        await one.end(seconds=0)


async def test_several_deliverers_share_the_work_and_no_message_is_sent_twice_at_once(database: Database) -> None:
    async def moment(message: Any, writer: asyncio.StreamWriter) -> None:  # noqa: ANN401 - see Behaviour
        await asyncio.sleep(0.005)
        await FINE(message, writer)

    async with receiving(moment) as receiver, deliverer(database), deliverer(database), deliverer(database):
        await ended(database, receiver.url(), count=300)
        rows = await settled(database, count=300, seconds=60)
    assert len(receiver.messages) == 300
    assert {row["attempts"] for row in rows} == {1}
    assert receiver.most_open > PER_RECEIVER, "more than one of them sends"


async def test_half_of_all_messages_arrive_within_a_second(database: Database) -> None:
    waits = []
    async with receiving() as receiver, deliverer(database):
        for number in range(9):
            await asyncio.sleep(0.13)
            began = asyncio.get_running_loop().time()
            await ended(database, receiver.url())
            await receiver.got(number + 1)
            waits.append(asyncio.get_running_loop().time() - began)
    assert median(waits) < 1, waits


async def test_messages_are_signed_with_both_secrets_for_a_day_after_a_rotation(database: Database) -> None:
    now = utc_now()
    webhooks = service(database, clock=lambda: now)
    async with receiving() as receiver, deliverer(database, clock=lambda: now):
        _, secrets = await webhooks.create(OWNER, receiver.url(), list(EventType))
        old = secrets.current
        new = (await webhooks.rotate(OWNER)).current
        newest = (await webhooks.rotate(OWNER)).current
        assert len({old, new, newest}) == 3
        await ended(database)
        (message,) = await receiver.got(1)
        assert [message.verified(secret)["type"] for secret in (old, new, newest)] == ["batch.completed"] * 3
        assert len(message.headers["webhook-signature"].split(" ")) == 3
    later_on = now + timedelta(days=1)
    async with receiving() as receiver, deliverer(database, clock=lambda: later_on):
        await ended(database, receiver.url())
        (message,) = await receiver.got(1)
        assert len(message.headers["webhook-signature"].split(" ")) == 1


async def test_messages_that_ended_long_ago_are_deleted_and_nothing_else(database: Database) -> None:
    async with receiving(FINE, FINE, answering(500)) as receiver, deliverer(database, run=False) as one:
        await ended(database, receiver.url(), count=3)
        await one.deliver_due()
        await one.end()
        async with database.connection() as connection:
            await connection.execute("UPDATE webhook_deliveries SET created_at = created_at - $1::interval", 2 * DAY)
            await connection.execute(
                "UPDATE webhook_deliveries SET finished_at = finished_at - $1::interval WHERE id = ("
                "SELECT id FROM webhook_deliveries WHERE finished_at IS NOT NULL LIMIT 1)",
                2 * DAY,
            )
        assert await one.delete_old() == 1
        assert sorted(row["status"] for row in await deliveries(database)) == [DELIVERED, PENDING]
