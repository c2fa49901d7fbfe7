"""Whoever ends a batch, in whatever way: its receivers have a message exactly if the transaction was committed."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from app.api import schemas
from app.domain.batch import Batch, Tally, advance
from app.domain.ids import utc_now
from app.domain.webhook import EventType
from app.ingest.submission import Submission
from app.repositories.unit_of_work import unit_of_work
from tests.support.services import OWNER, STRANGER, Services, serving
from tests.support.webhooks import deliveries, service

URL: Final = "https://receiver.example/hook"
EVERYTHING: Final = tuple(EventType)


@pytest.fixture
async def services(database_url: str, tmp_path: Path) -> AsyncIterator[Services]:
    async with serving(database_url, tmp_path) as running:
        yield running


async def opened(services: Services, url: str | None = URL) -> Batch:
    return await services.batches.open(
        OWNER, label="Ä", expected_uploads=None, metadata={"a": [1, None]}, expires_in=None, webhook_url=url
    )


async def told(services: Services) -> "list[tuple[str, str]]":
    """Status in the payload and type of each message."""
    rows = await deliveries(services.database)
    return [(json.loads(row["payload"])["data"]["status"], row["type"]) for row in rows]


async def test_every_road_to_an_end_tells(services: Services) -> None:
    sealed_empty = await opened(services)
    await services.batches.seal(OWNER, sealed_empty.id)
    cancelled = await opened(services)
    await services.add(cancelled, b"waits")
    await services.batches.cancel(OWNER, cancelled.id)
    worked = await opened(services)
    (upload,) = await services.add(worked, b"content")
    await services.batches.seal(OWNER, worked.id)
    await services.pipeline.process([upload.id])
    emptied = await opened(services)
    (last,) = await services.add(emptied, b"never processed")
    await services.batches.seal(OWNER, emptied.id)
    await services.uploads.delete(OWNER, last.id)
    sealed_by_group = await opened(services)
    await services.group.submit(Submission(OWNER, sealed_by_group.id, [], seals=True))
    assert await told(services) == [
        ("completed", "batch.completed"),
        ("cancelled", "batch.cancelled"),
        ("completed", "batch.completed"),
        ("completed", "batch.completed"),
        ("completed", "batch.completed"),
    ]


async def test_a_batch_in_which_nothing_succeeded_tells_that_it_failed(services: Services) -> None:
    batch = await opened(services)
    async with unit_of_work(services.database) as uow:
        locked = (await uow.batches.lock([batch.id]))[batch.id]
        await uow.batches.save([advance(locked, Tally(failed=1), now=utc_now(), seal=True)])
    assert await told(services) == [("failed", "batch.failed")]


async def test_the_payload_is_the_batch_as_the_api_shows_it_at_that_moment(services: Services) -> None:
    batch = await opened(services)
    (upload, _) = await services.add(batch, b"content", b"more")
    await services.batches.seal(OWNER, batch.id)
    await services.pipeline.process([upload.id])
    assert await deliveries(services.database) == [], "one file is still open"
    ended = await services.batches.cancel(OWNER, batch.id)
    shown = json.loads(schemas.BATCH.dump_json(schemas.batch_out(await services.batches.get(OWNER, batch.id))))
    await services.batches.delete(OWNER, batch.id, with_uploads=True)
    (row,) = await deliveries(services.database)
    assert json.loads(row["payload"]) == {
        "type": "batch.cancelled",
        "timestamp": shown["completed_at"],
        "data": shown,
    }
    assert (row["batch_id"], row["created_at"], row["status"]) == (batch.id, ended.completed_at, "pending")


async def test_a_later_change_of_a_finished_batch_tells_nothing(services: Services) -> None:
    batch = await opened(services)
    uploads = await services.add(batch, b"one", b"two")
    await services.batches.seal(OWNER, batch.id)
    await services.pipeline.process([upload.id for upload in uploads])
    await services.uploads.delete(OWNER, uploads[0].id)
    await services.batches.seal(OWNER, batch.id)
    assert len(await deliveries(services.database)) == 1


async def test_a_batch_that_is_retried_and_ends_again_is_a_new_event(services: Services) -> None:
    batch = await opened(services)
    (upload,) = await services.add(batch, b"content")
    await services.rows(
        "UPDATE uploads SET status = 'failed', completed_at = now(), error = $2 WHERE id = $1",
        upload.id,
        json.dumps({"code": "processor-crashed", "detail": "It crashed."}),
    )
    async with unit_of_work(services.database) as uow:
        locked = (await uow.batches.lock([batch.id]))[batch.id]
        await uow.batches.save([advance(locked, Tally(pending=-1, failed=1), now=utc_now(), seal=True)])
    await services.batches.retry(OWNER, batch.id, None)
    assert await told(services) == [("failed", "batch.failed")], "to go on is no event"
    await services.pipeline.process([upload.id])
    assert await told(services) == [("failed", "batch.failed"), ("completed", "batch.completed")]
    first, second = await deliveries(services.database)
    assert first["id"] != second["id"]


async def end_and_fail(services: Services, batch: Batch) -> None:
    async with unit_of_work(services.database) as uow:
        locked = (await uow.batches.lock([batch.id]))[batch.id]
        await uow.batches.save([advance(locked, Tally(), now=utc_now(), seal=True)])
        assert await uow.connection.fetchval("SELECT count(*) FROM webhook_deliveries") == 1
        raise ZeroDivisionError


async def test_an_end_that_is_rolled_back_tells_nothing(services: Services) -> None:
    batch = await opened(services)
    with pytest.raises(ZeroDivisionError):
        await end_and_fail(services, batch)
    assert await deliveries(services.database) == []
    assert (await services.batches.get(OWNER, batch.id)).completed_at is None


async def test_each_receiver_that_wants_the_event_has_one_message(services: Services) -> None:
    webhooks = service(services.database)
    everything, _ = await webhooks.create(OWNER, URL, EVERYTHING)
    only_failed, _ = await webhooks.create(OWNER, "https://other.example/", [EventType.FAILED])
    disabled, _ = await webhooks.create(OWNER, "https://third.example/", EVERYTHING)
    await services.rows("UPDATE webhook_endpoints SET disabled_at = now() WHERE id = $1", disabled.id)
    await webhooks.create(STRANGER, "https://stranger.example/", EVERYTHING)
    batch = await opened(services, URL)
    await services.batches.seal(OWNER, batch.id)
    (row,) = await deliveries(services.database)
    assert (row["endpoint_id"], row["url"], row["receiver"]) == (everything.id, URL, "receiver.example:443")
    own = await opened(services, "https://own.example:8443/")
    await services.batches.seal(OWNER, own.id)
    rows = [row for row in await deliveries(services.database) if row["batch_id"] == own.id]
    assert {(row["endpoint_id"], row["receiver"]) for row in rows} == {
        (everything.id, "receiver.example:443"),
        (None, "own.example:8443"),
    }
    assert only_failed.id not in {row["endpoint_id"] for row in rows}
    assert await deliveries(services.database, STRANGER) == []


async def test_a_url_that_would_not_be_taken_today_keeps_no_batch_from_ending(services: Services) -> None:
    batch = await opened(services)
    await services.rows("UPDATE upload_batches SET webhook_url = 'gopher:' WHERE id = $1", batch.id)
    assert (await services.batches.seal(OWNER, batch.id)).completed_at is not None
    (row,) = await deliveries(services.database)
    assert (row["url"], row["receiver"]) == ("gopher:", "gopher:")


async def save_ended(services: Services, batches: "list[Batch]") -> float:
    """End batches in one transaction; return how long that took."""
    async with unit_of_work(services.database) as uow:
        locked = await uow.batches.lock([batch.id for batch in batches])
        began = time.perf_counter()
        await uow.batches.save([advance(batch, Tally(), now=utc_now(), seal=True) for batch in locked.values()])
        return time.perf_counter() - began


async def test_a_thousand_ends_with_nobody_to_tell_cost_one_look_up(services: Services) -> None:
    batches = [await services.open() for _ in range(1000)]
    async with services.database.connection() as connection:
        before = await connection.fetchval("SELECT count(*) FROM webhook_deliveries")
    seconds = await save_ended(services, batches)
    assert await services.value("SELECT count(*) FROM webhook_deliveries") == before == 0
    assert seconds < 2
    assert await services.value("SELECT count(*) FROM upload_batches WHERE status = 'completed'") == 1000


async def test_a_thousand_ends_tell_in_the_same_transaction(services: Services) -> None:
    await service(services.database).create(OWNER, URL, EVERYTHING)
    batches = [await services.open() for _ in range(1000)]
    await save_ended(services, batches)
    rows = await deliveries(services.database)
    assert {row["batch_id"] for row in rows} == {batch.id for batch in batches}
    assert len({row["id"] for row in rows}) == len(rows) == 1000
