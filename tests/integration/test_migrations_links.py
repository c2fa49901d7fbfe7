"""Down and up again: every link is put aside and comes back, and nothing else is lost either."""

import asyncio
from typing import Final
from uuid import UUID

import asyncpg
from structlog.testing import capture_logs

from app.db import migrate, migration_session
from tests.support import catalog
from tests.support.postgres import execute, fetch, until
from tests.support.rows import REALISTIC

BATCHES: Final = "INSERT INTO upload_batches (user_id) SELECT gen_random_uuid() FROM generate_series(1, {count})"
UPLOADS: Final = """
INSERT INTO uploads (user_id, filename, status)
SELECT gen_random_uuid(), 'file ' || i, 'receiving' FROM generate_series(1, {count}) i
"""
# Nine in ten are in a batch. The foreign key is not checked row by row, which would take most of the test's time.
LINKED_UPLOADS: Final = """
SET session_replication_role = replica;
INSERT INTO uploads (user_id, filename, status, batch_id)
SELECT gen_random_uuid(), 'file ' || i, 'receiving', CASE WHEN i % 10 > 0 THEN ids[1 + i % cardinality(ids)] END
FROM generate_series(1, {count}) i, (SELECT array_agg(id) AS ids FROM upload_batches) batches
"""
REMEMBER: Final = "CREATE TABLE remembered AS SELECT id, batch_id FROM uploads"
DIFFERENCES: Final = """
SELECT r.id FROM remembered r FULL JOIN uploads u USING (id)
WHERE r.batch_id IS DISTINCT FROM u.batch_id OR r.id IS NULL OR u.id IS NULL
"""
WAITING: Final = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
ASIDE: Final = "upload_batch_links_aside"


def linked(url: str, *, uploads: int, batches: int) -> None:
    """A service at `add_batch_support`, full."""
    migrate.upgrade(url, "add_batch_support")
    execute(url, BATCHES.format(count=batches), LINKED_UPLOADS.format(count=uploads), REMEMBER)


def links(url: str) -> dict[UUID, UUID | None]:
    return {row["id"]: row["batch_id"] for row in fetch(url, "SELECT id, batch_id FROM uploads")}


def test_a_hundred_thousand_links_are_put_aside_and_come_back(empty_database_url: str) -> None:
    url = empty_database_url
    linked(url, uploads=100_000, batches=999)
    contract = catalog.everything(url)
    with capture_logs() as logs:
        assert migrate.downgrade(url, "create_uploads") == ["add_batch_support"]
    events = [entry["event"] for entry in logs]
    assert f"add_batch_support: 90000 links put aside in {ASIDE}; upload_batches is kept" in events
    assert "batch_id" not in catalog.columns(url, "uploads")
    assert "idx_uploads_batch_id" not in catalog.indexes(url, "uploads")
    assert fetch(url, "SELECT count(*) FROM upload_batches")[0]["count"] == 999
    with capture_logs() as logs:
        assert migrate.upgrade(url, "add_batch_support") == ["add_batch_support"]
    events = [entry["event"] for entry in logs]
    assert "add_batch_support: uploads are linked to upload_batches; 90000 of 90000 links put aside are back" in events
    assert fetch(url, DIFFERENCES) == []
    assert catalog.everything(url) == contract


def test_links_of_what_was_deleted_meanwhile_stay_gone(empty_database_url: str) -> None:
    url = empty_database_url
    linked(url, uploads=200, batches=4)
    before = links(url)
    deleted_upload = next(upload for upload, batch in before.items() if batch is not None)
    deleted_batch = next(batch for batch in before.values() if batch not in {None, before[deleted_upload]})
    migrate.downgrade(url, "create_uploads")
    execute(
        url,
        f"DELETE FROM uploads WHERE id = '{deleted_upload}'",
        f"DELETE FROM upload_batches WHERE id = '{deleted_batch}'",
        UPLOADS.format(count=10),
    )
    with capture_logs() as logs:
        migrate.upgrade(url, "add_batch_support")
    after = links(url)
    assert len(after) == 209
    assert all(
        batch == (None if before.get(upload) == deleted_batch else before.get(upload))
        for upload, batch in after.items()
    )
    lost = 1 + sum(batch == deleted_batch for batch in before.values())
    assert any(str(entry["event"]).startswith(f"add_batch_support: {lost} were not") for entry in logs)
    assert ASIDE not in str(catalog.everything(url))


def test_a_link_that_was_set_since_wins(empty_database_url: str) -> None:
    url = empty_database_url
    linked(url, uploads=200, batches=4)
    before = links(url)
    moved = [upload for upload, batch in before.items() if batch is not None][:5]
    target = next(batch for batch in before.values() if batch not in {None, *(before[upload] for upload in moved[:1])})
    migrate.downgrade(url, "create_uploads")
    chosen = ", ".join(f"'{upload}'" for upload in moved)
    execute(
        url,
        "ALTER TABLE uploads ADD COLUMN batch_id uuid",
        f"UPDATE uploads SET batch_id = '{target}' WHERE id IN ({chosen})",
    )
    migrate.upgrade(url, "add_batch_support")
    assert links(url) == {**before, **dict.fromkeys(moved, target)}


async def test_a_link_that_is_being_made_is_waited_for(empty_database_url: str) -> None:
    url = empty_database_url
    await asyncio.to_thread(linked, url, uploads=50, batches=2)
    async with migration_session.session(url) as connection:
        async with connection.transaction():
            await connection.execute("UPDATE uploads SET batch_id = (SELECT min(id::text)::uuid FROM upload_batches)")
            downgrading = asyncio.create_task(asyncio.to_thread(migrate.downgrade, url, "create_uploads"))
            await until(lambda: bool(fetch(url, WAITING)))
        await downgrading
    (row,) = fetch(url, f"SELECT count(*), count(DISTINCT batch_id) AS batches FROM {ASIDE}")
    assert tuple(row) == (50, 1)


def test_the_downgrade_may_run_twice(empty_database_url: str) -> None:
    url = empty_database_url
    linked(url, uploads=50, batches=4)
    migrate.downgrade(url, "create_uploads")
    execute(url, migrate.sql("down", "add_batch_support"))
    migrate.upgrade(url, "add_batch_support")
    assert fetch(url, DIFFERENCES) == []


def test_a_link_put_aside_by_an_earlier_downgrade_gives_way_to_the_newer(empty_database_url: str) -> None:
    url = empty_database_url
    linked(url, uploads=50, batches=2)
    execute(
        url,
        f"CREATE TABLE {ASIDE} (upload_id uuid PRIMARY KEY, batch_id uuid NOT NULL)",
        f"INSERT INTO {ASIDE} SELECT id, gen_random_uuid() FROM uploads",
    )
    migrate.downgrade(url, "create_uploads")
    migrate.upgrade(url, "add_batch_support")
    assert fetch(url, DIFFERENCES) == []


def test_down_to_base_and_up_to_head_loses_nothing(database_url: str) -> None:
    execute(database_url, *REALISTIC)
    schema, rows = catalog.everything(database_url), everything_in(database_url)
    assert migrate.downgrade(database_url, "base")[-1] == "create_uploads"
    with capture_logs() as logs:
        migrate.upgrade(database_url)
    assert everything_in(database_url) == rows
    assert catalog.everything(database_url) == schema
    assert any("0 of 4 batches did not match" in str(entry["event"]) for entry in logs)


def everything_in(url: str) -> dict[str, list[asyncpg.Record]]:
    tables = ("objects", "uploads", "upload_batches", "service_keys")
    return {
        table: fetch(url, f"SELECT to_jsonb(t) AS row FROM {table} t ORDER BY to_jsonb(t)::text") for table in tables
    }
