"""The database edge: what is lost, what comes back, and what a transaction that ended badly leaves."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg
import pytest

from app.db.embedded import EmbeddedPostgres
from app.db.pool import Database
from app.domain.batch import new_batch
from app.domain.errors import DatabaseUnavailableError
from app.domain.ids import new_id, utc_now
from app.repositories.unit_of_work import UnitOfWork, reading, unit_of_work
from tests.support.postgres import apart, fetch
from tests.support.services import OWNER, later

if TYPE_CHECKING:
    from app.db.pool import Connection

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)

BATCHES: Final = "SELECT count(*) FROM upload_batches"
TERMINATE: Final = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'boatload'
"""


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url, size=2)
    yield database
    await database.close()


@pytest.fixture
def own_server() -> Iterator[EmbeddedPostgres]:
    """A server that a test may stop."""
    folder = Path(tempfile.mkdtemp(prefix="bl-", dir="/tmp"))
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder / "18", "18")
    apart(server.start)
    yield server
    apart(server.stop)
    shutil.rmtree(folder)


async def insert(uow: UnitOfWork) -> None:
    await uow.batches.insert(new_batch(new_id(), OWNER, now=utc_now(), expires_at=later(60)))


async def inserted_then(database: Database, then: Callable[[UnitOfWork], Awaitable[object]]) -> None:
    async with unit_of_work(database) as uow:
        await insert(uow)
        await then(uow)


async def terminate(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    assert any(row[0] for row in await connection.fetch(TERMINATE))
    await connection.close()


async def ask(database: Database) -> object:
    async with database.connection() as connection:
        return await connection.fetchval(BATCHES)


async def test_leaving_the_block_commits_all_or_nothing(database: Database) -> None:
    async def fails(_uow: UnitOfWork) -> None:
        raise ZeroDivisionError

    async def refused(uow: UnitOfWork) -> None:
        with suppress(asyncpg.CheckViolationError):
            await uow.connection.execute("UPDATE upload_batches SET total_uploads = -1")

    with pytest.raises(ZeroDivisionError):
        await inserted_then(database, fails)
    assert await ask(database) == 0
    await inserted_then(database, refused)
    assert await ask(database) == 0, "what PostgreSQL aborted is not committed by passing over the error"
    await inserted_then(database, lambda _uow: asyncio.sleep(0))
    assert await ask(database) == 1


async def test_a_cancelled_transaction_leaves_nothing_and_a_clean_connection(database: Database) -> None:
    async def sleep(uow: UnitOfWork) -> None:
        await uow.connection.execute("SELECT pg_sleep(30)")

    for _ in range(4):
        task = asyncio.create_task(inserted_then(database, sleep))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [await ask(database) for _ in range(4)] == [0] * 4


async def test_a_backend_that_ends_in_a_transaction_is_a_lost_database(database: Database, database_url: str) -> None:
    async def between_statements(uow: UnitOfWork) -> None:
        await terminate(database_url)
        await insert(uow)

    async def in_a_statement(uow: UnitOfWork) -> None:
        ending = asyncio.create_task(terminate(database_url))
        try:
            await uow.connection.execute("SELECT pg_sleep(30)")
        finally:
            await ending

    async def before_the_commit(_uow: UnitOfWork) -> None:
        await terminate(database_url)

    for then in (between_statements, in_a_statement, before_the_commit):
        with pytest.raises(DatabaseUnavailableError):
            await inserted_then(database, then)
        assert await ask(database) == 0


async def test_a_backend_that_ends_in_a_single_read_is_a_lost_database(database: Database, database_url: str) -> None:
    async def read(statement: str) -> None:
        async with reading(database) as uow:
            await uow.connection.execute(statement)

    working = asyncio.create_task(read("SELECT pg_sleep(30)"))
    await asyncio.sleep(0.1)
    await terminate(database_url)
    with pytest.raises(DatabaseUnavailableError):
        await working
    assert await ask(database) == 0


async def test_a_connection_that_is_just_being_ended_is_a_lost_database_or_replaced(
    database: Database, database_url: str
) -> None:
    """At some moment asyncpg has read why, and not yet the end of the stream; whenever that is, nothing else comes."""
    killer = await asyncpg.connect(database_url)
    for turns in range(100):
        async with database.connection() as connection:
            pid = connection.get_server_pid()
        await killer.execute("SELECT pg_terminate_backend($1)", pid)
        for _ in range(turns % 10):
            await asyncio.sleep(0)
        with suppress(DatabaseUnavailableError):
            await inserted_then(database, lambda _uow: asyncio.sleep(0))
    await killer.close()
    await asyncio.sleep(0.1)
    await ask(database)


async def test_a_pooled_connection_that_broke_is_replaced(database: Database, database_url: str) -> None:
    async with database.connection(), database.connection():
        pass
    await terminate(database_url)
    await asyncio.sleep(0.1)
    assert [await ask(database) for _ in range(4)] == [0] * 4


async def test_whoever_finds_no_connection_waits_for_one(database: Database) -> None:
    order: list[str] = []

    async def wait() -> None:
        await ask(database)
        order.append("waited")

    async with database.connection():
        async with database.transaction():
            waiting = [asyncio.create_task(wait()) for _ in range(5)]
            await asyncio.sleep(0.2)
            order.append("let go")
        await asyncio.gather(*waiting)
    assert order == ["let go", *["waited"] * 5]


async def test_a_server_that_is_down_is_a_lost_database_until_it_is_back(
    own_server: EmbeddedPostgres, postgres_version: str
) -> None:
    async def stop(_connection: "Connection") -> None:
        await asyncio.to_thread(own_server.stop)

    async def work(then: "Callable[[Connection], Awaitable[object]]") -> object:
        async with database.transaction() as connection:
            await connection.execute("CREATE TABLE IF NOT EXISTS kept (id int)")
            await connection.execute("INSERT INTO kept VALUES (1)")
            await then(connection)
            return await connection.fetchval("SELECT count(*) FROM kept")

    database = await Database.open(own_server.dsn, size=3)
    assert await work(lambda _connection: asyncio.sleep(0)) == 1
    with pytest.raises(DatabaseUnavailableError):
        await work(stop)
    began = time.monotonic()
    for _ in range(5):
        with pytest.raises(DatabaseUnavailableError):
            await work(lambda _connection: asyncio.sleep(0))
        with pytest.raises(DatabaseUnavailableError):
            await ask(database)
    with pytest.raises(DatabaseUnavailableError):
        await Database.open(own_server.dsn, size=1)
    assert time.monotonic() - began < 5, "nobody waits for a server that is not there"
    await asyncio.to_thread(own_server.start)
    assert await work(lambda _connection: asyncio.sleep(0)) == 2
    await database.close()


async def test_the_unit_of_work_is_one_transaction_and_reading_is_none(database: Database) -> None:
    xid = "SELECT pg_current_xact_id()::text"
    async with unit_of_work(database) as uow:
        first = await uow.connection.fetchval(xid)
        assert first == await uow.connection.fetchval(xid)
        assert uow.connection.is_in_transaction()
    async with reading(database) as uow:
        assert await uow.connection.fetchval(xid) != await uow.connection.fetchval(xid)
        assert not uow.connection.is_in_transaction()


async def test_closing_waits_for_those_who_still_work(database_url: str) -> None:
    database = await Database.open(database_url, size=2)

    async def slow(uow: UnitOfWork) -> None:
        await uow.connection.execute("SELECT pg_sleep(0.3)")

    working = asyncio.create_task(inserted_then(database, slow))
    await asyncio.sleep(0.1)
    await database.close()
    await working
    assert fetch(database_url, BATCHES)[0][0] == 1
