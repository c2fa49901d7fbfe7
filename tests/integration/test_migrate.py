"""The commands behind `boatload migrate`: what they return, print and refuse, alone and at once."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Final

import pytest
from structlog.testing import capture_logs

from app.db import migrate, migration_session
from tests.support import catalog
from tests.support.postgres import execute, fetch, until

ALL: Final = list(catalog.REVISIONS)
LOCKS: Final = """
SELECT granted FROM pg_locks JOIN pg_database d ON d.oid = pg_locks.database
WHERE locktype = 'advisory' AND d.datname = current_database()
"""
END_WAITING: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
UPGRADE: Final = """
import json, sys
from app.db import migrate
import structlog
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
print(json.dumps(migrate.upgrade(sys.argv[1])))
"""


def test_up_applies_each_revision_once_and_says_which(empty_database_url: str) -> None:
    assert migrate.upgrade(empty_database_url, "add_batch_support") == ALL[:2]
    assert migrate.upgrade(empty_database_url) == ALL[2:]
    assert migrate.upgrade(empty_database_url) == []
    assert migrate.upgrade(empty_database_url, "create_uploads") == [], "up never goes down"


def test_down_undoes_the_newest_first(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    assert migrate.downgrade(empty_database_url, "-1") == ALL[-1:]
    assert migrate.downgrade(empty_database_url, "base") == ALL[-2::-1]
    assert migrate.upgrade(empty_database_url) == ALL


def test_status_names_what_is_missing_and_changes_nothing(empty_database_url: str) -> None:
    found = migrate.status(empty_database_url)
    assert (found.current, found.head, found.pending) == (None, ALL[-1], tuple(ALL))
    assert catalog.everything(empty_database_url) == {"routines": []}
    migrate.upgrade(empty_database_url, "add_batch_support")
    found = migrate.status(empty_database_url)
    assert (found.current, found.pending) == (ALL[1], tuple(ALL[2:]))
    assert [(revision.name, revision.applied) for revision in found.revisions] == [
        (name, name in ALL[:2]) for name in ALL
    ]
    assert all(revision.summary for revision in found.revisions)


def test_the_printed_sql_makes_the_same_schema(
    postgres_version: str, empty_database_url: str, database_url: str
) -> None:
    execute(empty_database_url, migrate.sql())
    assert catalog.everything(empty_database_url) == catalog.everything(database_url)
    assert migrate.status(empty_database_url).pending == ()
    assert fetch(empty_database_url, LOCKS) == []
    execute(empty_database_url, migrate.sql("down"))
    assert migrate.status(empty_database_url).current is None
    assert migrate.upgrade(empty_database_url) == ALL
    assert (
        catalog.everything(empty_database_url)["public.uploads"] == catalog.everything(database_url)["public.uploads"]
    )


def test_sql_prints_one_revision_or_a_range() -> None:
    one = migrate.sql("up", "add_batch_support")
    assert "CREATE TABLE IF NOT EXISTS upload_batches" in one
    assert "Running upgrade create_uploads -> add_batch_support" in one
    assert one.count("BEGIN;\n") == 1
    assert migrate.sql("up", "create_uploads:head").count("-- Running upgrade") == len(ALL) - 1
    assert "-- Running downgrade batch_account -> add_batch_support" in migrate.sql("down", "batch_account")
    assert "%%" not in migrate.sql()


@pytest.mark.parametrize("revisions", ["nothing", "head:base", "base", "base:base", "a:b:c", "-1", ""])
def test_sql_refuses_what_is_no_range(revisions: str) -> None:
    with pytest.raises(migrate.RevisionError, match=f"'{revisions}' is"):
        migrate.sql("up", revisions)


def test_processes_that_upgrade_at_once_apply_it_once(empty_database_url: str) -> None:
    command = [sys.executable, "-c", UPGRADE, empty_database_url]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sorted(json.loads(output) for output, _ in outputs) == [[], ALL]
    assert migrate.status(empty_database_url).pending == ()


async def test_threads_of_one_process_may_upgrade_at_once(empty_database_url: str) -> None:
    done = await asyncio.gather(*(asyncio.to_thread(migrate.upgrade, empty_database_url) for _ in range(3)))
    assert sorted(done) == [[], [], ALL]


async def test_an_upgrade_waits_for_whoever_holds_the_lock(empty_database_url: str) -> None:
    with capture_logs() as logs:
        async with migration_session.session(empty_database_url, locked=True):
            upgrading = asyncio.create_task(asyncio.to_thread(migrate.upgrade, empty_database_url))
            await until(lambda: {row["granted"] for row in fetch(empty_database_url, LOCKS)} == {True, False})
            assert catalog.columns(empty_database_url, "uploads") == {}
        assert await upgrading == ALL
    assert "another process is migrating this database; waiting for it" in [entry["event"] for entry in logs]
    assert fetch(empty_database_url, LOCKS) == []


def test_a_refused_revision_is_rolled_back_and_the_lock_given_back(empty_database_url: str) -> None:
    execute(empty_database_url, "CREATE TABLE upload_batches (id uuid PRIMARY KEY)")
    with pytest.raises(migrate.RevisionFailedError, match='column "user_id" does not exist'):
        migrate.upgrade(empty_database_url)
    assert fetch(empty_database_url, LOCKS) == []
    assert migrate.status(empty_database_url).current == "create_uploads"
    assert "batch_id" not in catalog.columns(empty_database_url, "uploads")
    execute(empty_database_url, "DROP TABLE upload_batches")
    assert migrate.upgrade(empty_database_url) == ALL[1:]


async def test_a_connection_lost_in_the_middle_is_said_so(empty_database_url: str) -> None:
    await asyncio.to_thread(migrate.upgrade, empty_database_url, "add_batch_support")
    async with migration_session.session(empty_database_url) as connection, connection.transaction():
        await connection.execute("LOCK TABLE upload_batches")  # holds the migration in the middle of its revision
        upgrading = asyncio.create_task(asyncio.to_thread(migrate.upgrade, empty_database_url))
        await until(lambda: bool(fetch(empty_database_url, END_WAITING)))
        with pytest.raises(migrate.DatabaseUnreachableError, match="in the middle"):
            await upgrading
    assert await asyncio.to_thread(migrate.upgrade, empty_database_url) == ALL[2:]


@pytest.mark.parametrize("command", [migrate.upgrade, migrate.downgrade])
@pytest.mark.parametrize("revision", ["create", "Head", "heads", "create_uploads:head", "", "1"])
def test_an_unknown_revision_is_refused_without_a_database(
    command: Callable[[str, str], object], revision: str
) -> None:
    with pytest.raises(
        migrate.RevisionError, match=f"There is no revision '{revision}'. There are: base, create_uploads,"
    ):
        command("postgresql://nobody@127.0.0.1:1/nothing", revision)


def test_a_revision_that_cannot_be_reached_is_refused(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url, "create_uploads")
    with pytest.raises(migrate.RevisionError, match="There is no way to that revision"):
        migrate.downgrade(empty_database_url, "add_batch_support")
    with pytest.raises(migrate.RevisionError, match="There is no way to that revision"):
        migrate.upgrade(empty_database_url, "+99")


def test_a_database_of_a_newer_release_is_left_alone(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    execute(empty_database_url, "UPDATE boatload_schema_version SET version_num = 'of_the_future'")
    for command in (
        lambda: migrate.upgrade(empty_database_url),
        lambda: migrate.downgrade(empty_database_url, "base"),
        lambda: migrate.status(empty_database_url),
    ):
        with pytest.raises(
            migrate.RevisionError, match="at revision 'of_the_future', which this release does not know"
        ):
            command()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://nobody@127.0.0.1:1/nothing",
        "postgresql://nobody@/nothing?host=/nonexistent",
        "postgresql://nobody@127.0.0.1:port/nothing",
        "mysql://nobody@127.0.0.1/nothing",
    ],
)
def test_a_database_out_of_reach_is_said_so(url: str) -> None:
    for command in (migrate.upgrade, migrate.status):
        with pytest.raises(migrate.DatabaseUnreachableError, match=r"The database cannot be reached: .+\."):
            command(url)


def test_an_old_server_is_refused(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration_session, "OLDEST_POSTGRES", 99)
    with pytest.raises(migrate.ServerTooOldError, match=r"The server is PostgreSQL 1[68]; 99 or newer is needed\."):
        migrate.upgrade(empty_database_url)
    assert catalog.everything(empty_database_url) == {"routines": []}


def test_limits_of_the_role_do_not_stop_a_migration(empty_database_url: str) -> None:
    execute(
        empty_database_url,
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET statement_timeout = 1', current_database()); END $$",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET client_min_messages = error', current_database()); END $$",
    )
    with capture_logs() as logs:
        assert migrate.upgrade(empty_database_url) == ALL
    assert any("batch_account: 0 of 0 batches" in str(entry["event"]) for entry in logs)


def test_an_older_service_may_keep_its_own_alembic_history(empty_database_url: str) -> None:
    execute(
        empty_database_url,
        "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)",
        "INSERT INTO alembic_version VALUES ('4f1c')",
    )
    assert migrate.upgrade(empty_database_url) == ALL
    assert [row["version_num"] for row in fetch(empty_database_url, "TABLE alembic_version")] == ["4f1c"]
