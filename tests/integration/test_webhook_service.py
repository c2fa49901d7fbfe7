"""What owners do with webhooks, and that nobody sees or changes another's."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final
from uuid import UUID

import asyncpg
import pytest

from app.db import migrate
from app.db.pool import Database
from app.domain.errors import InvalidWebhookUrlError, NotFoundError, WebhookLimitError
from app.domain.ids import new_id, utc_now
from app.domain.webhook import MAX_ENDPOINTS, MAX_OLDER_SECRETS, Delivery, DeliveryStatus, Endpoint, EventType
from app.repositories.unit_of_work import unit_of_work
from tests.support import catalog
from tests.support.postgres import execute, fetch
from tests.support.services import OWNER, STRANGER
from tests.support.webhooks import deliveries, ended, service

URL: Final = "https://receiver.example/"
ALL: Final = tuple(EventType)
NEWEST: Final = (utc_now() + timedelta(days=1), UUID(int=0))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url, size=8)
    yield database
    await database.close()


async def test_a_webhook_comes_back_as_it_was_made(database: Database) -> None:
    webhooks = service(database)
    made = [
        (await webhooks.create(OWNER, URL, events))[0]
        for events in (ALL, [EventType.FAILED], [EventType.FAILED, EventType.CANCELLED, EventType.FAILED])
    ]
    assert [one.events for one in made] == [ALL, (EventType.FAILED,), (EventType.FAILED, EventType.CANCELLED)]
    assert await webhooks.list_all(OWNER) == made
    assert [await webhooks.get(OWNER, one.id) for one in made] == made
    await webhooks.delete(OWNER, made[0].id)
    assert await webhooks.list_all(OWNER) == made[1:]
    for call in (webhooks.get, webhooks.delete):
        with pytest.raises(NotFoundError):
            await call(OWNER, made[0].id)


async def test_what_belongs_to_another_is_not_there(database: Database) -> None:
    webhooks = service(database)
    endpoint, _ = await webhooks.create(OWNER, URL, ALL)
    await ended(database)
    (row,) = await deliveries(database)
    for call in (webhooks.get, webhooks.delete):
        with pytest.raises(NotFoundError):
            await call(STRANGER, endpoint.id)
    for other in (webhooks.get_delivery, webhooks.redeliver):
        with pytest.raises(NotFoundError):
            await other(STRANGER, row["id"])
        with pytest.raises(NotFoundError):
            await other(OWNER, new_id())
    assert await webhooks.list_all(STRANGER) == []
    for batch_id in (None, row["batch_id"]):
        page = await webhooks.list_deliveries(STRANGER, batch_id=batch_id, status=None, before=NEWEST, limit=9)
        assert page == []
    assert (await webhooks.get(OWNER, endpoint.id), (await deliveries(database))[0]) == (endpoint, row)


async def test_only_urls_that_may_be_sent_to_are_taken(database: Database) -> None:
    guarded = service(database, allow_private=False)
    for url in ("http://example.com/", "https://127.0.0.1/", "https://user:pass@example.com/"):
        with pytest.raises(InvalidWebhookUrlError):
            await guarded.create(OWNER, url, ALL)
    assert await guarded.list_all(OWNER) == []


async def test_the_bound_on_webhooks_holds_when_many_are_made_at_once(database: Database) -> None:
    webhooks = service(database)
    made = await asyncio.gather(
        *(webhooks.create(OWNER, URL, ALL) for _ in range(MAX_ENDPOINTS + 10)), return_exceptions=True
    )
    assert sum(isinstance(one, WebhookLimitError) for one in made) == 10
    assert len(await webhooks.list_all(OWNER)) == MAX_ENDPOINTS
    secrets = {one[1].current for one in made if not isinstance(one, BaseException)}
    assert len(secrets) == 1, "an owner has one secret, whoever came first"
    await webhooks.create(STRANGER, URL, ALL)


async def test_rotations_at_once_are_all_kept_and_bounded(database: Database) -> None:
    webhooks = service(database)
    _, secrets = await webhooks.create(OWNER, URL, ALL)
    made = await asyncio.gather(*(webhooks.rotate(OWNER) for _ in range(MAX_OLDER_SECRETS + 2)), return_exceptions=True)
    assert sum(isinstance(one, WebhookLimitError) for one in made) == 2
    _, after = await webhooks.create(OWNER, URL, ALL)
    rotated = {one.current for one in made if not isinstance(one, BaseException)}
    assert {after.current, *(one.secret for one in after.older)} == {secrets.current} | rotated


async def test_whoever_has_no_secret_yet_makes_the_first_by_rotating(database: Database) -> None:
    webhooks = service(database)
    first = await webhooks.rotate(OWNER)
    assert first.older == ()
    assert (await webhooks.create(OWNER, URL, ALL))[1] == first


async def pages(
    database: Database, *, batch_id: UUID | None = None, status: DeliveryStatus | None = None
) -> list[Delivery]:
    found: list[Delivery] = []
    before = NEWEST
    while page := await service(database).list_deliveries(
        OWNER, batch_id=batch_id, status=status, before=before, limit=7
    ):
        found += page
        before = (page[-1].created_at, page[-1].id)
    return found


async def test_pages_of_deliveries_are_newest_first_without_gap_or_repeat(database: Database) -> None:
    for number in range(3):
        await service(database).create(OWNER, f"{URL}{number}", ALL)
    batches = [(await ended(database))[0] for _ in range(5)] + await ended(database, count=3)
    rows = await deliveries(database)
    assert len(rows) == 24
    newest = [row["id"] for row in sorted(rows, key=lambda row: (row["created_at"], row["id"]), reverse=True)]
    assert [one.id for one in await pages(database)] == newest
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE webhook_deliveries SET status = 'given_up', reason = 'No.', finished_at = now()"
            " WHERE batch_id = $1",
            batches[2],
        )
    given_up = await pages(database, status=DeliveryStatus.GIVEN_UP)
    assert {(one.batch_id, one.reason) for one in given_up} == {(batches[2], "No.")}
    assert len(given_up) == 3
    assert len(await pages(database, status=DeliveryStatus.PENDING)) == 21
    assert await pages(database, status=DeliveryStatus.DELIVERED) == []
    assert {one.batch_id for one in await pages(database, batch_id=batches[0])} == {batches[0]}
    assert await pages(database, batch_id=batches[2], status=DeliveryStatus.GIVEN_UP) == given_up
    assert await pages(database, batch_id=batches[2], status=DeliveryStatus.PENDING) == []


BREACHES: Final = [
    ("webhook_deliveries_status_known", "UPDATE webhook_deliveries SET status = 'lost', finished_at = now()"),
    ("webhook_deliveries_finished_at_when_over", "UPDATE webhook_deliveries SET finished_at = now()"),
    ("webhook_deliveries_finished_at_when_over", "UPDATE webhook_deliveries SET status = 'delivered'"),
    ("webhook_deliveries_reason_when_given_up", "UPDATE webhook_deliveries SET reason = 'No.'"),
    (
        "webhook_deliveries_reason_when_given_up",
        "UPDATE webhook_deliveries SET status = 'given_up', finished_at = now()",
    ),
    ("webhook_deliveries_counts_not_negative", "UPDATE webhook_deliveries SET failures = -1"),
    ("webhook_endpoints_some_event", "UPDATE webhook_endpoints SET events = '{}'"),
]


async def test_the_database_refuses_what_breaks_a_rule(database: Database, database_url: str) -> None:
    await service(database).create(OWNER, URL, ALL)
    await ended(database)
    for rule, statement in BREACHES:
        async with database.connection() as connection:
            with pytest.raises(asyncpg.CheckViolationError, match=rule):
                await connection.execute(statement)
    rules = {
        name
        for table in ("webhook_endpoints", "webhook_secrets", "webhook_deliveries")
        for name, definition in catalog.constraints(database_url, table).items()
        if definition.startswith("CHECK")
    }
    assert rules == {rule for rule, _ in BREACHES}


async def test_down_and_up_again_loses_nothing(database: Database, database_url: str) -> None:
    await service(database).create(OWNER, URL, ALL)
    await ended(database, "https://own.example/")
    tables = ("upload_batches", "webhook_endpoints", "webhook_secrets", "webhook_deliveries")
    before = [fetch(database_url, f"SELECT * FROM {table} ORDER BY 1") for table in tables]
    schema = catalog.everything(database_url)
    assert len(before[3]) == 2
    await asyncio.to_thread(migrate.downgrade, database_url, "base")
    assert "idx_webhook_deliveries_due" not in catalog.indexes(database_url, "webhook_deliveries")
    await asyncio.to_thread(migrate.upgrade, database_url)
    assert [fetch(database_url, f"SELECT * FROM {table} ORDER BY 1") for table in tables] == before
    assert catalog.everything(database_url) == schema


async def test_an_older_service_goes_on_without_webhooks(database: Database, database_url: str) -> None:
    await asyncio.to_thread(migrate.downgrade, database_url, "job_queue")
    execute(database_url, "INSERT INTO upload_batches (user_id) VALUES (gen_random_uuid())")
    assert fetch(database_url, "SELECT webhook_url FROM upload_batches")[0]["webhook_url"] is None


async def test_a_webhook_that_was_disabled_says_since_when(database: Database) -> None:
    webhooks = service(database)
    endpoint, _ = await webhooks.create(OWNER, URL, ALL)
    now = utc_now()
    for moment in (now, now + timedelta(hours=1)):
        async with unit_of_work(database) as uow:
            await uow.webhook_endpoints.disable(endpoint.id, moment)
    assert await webhooks.get(OWNER, endpoint.id) == Endpoint(endpoint.id, OWNER, URL, ALL, endpoint.created_at, now)
