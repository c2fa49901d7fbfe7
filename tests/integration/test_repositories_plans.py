"""What the hot statements read on large tables, at first and once PostgreSQL has settled on a plan for them.

And what they read with a plan that was made while the tables were empty, or nearly so.
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import asyncpg
import pytest

from app.db.pool import Database, look_up_by_index
from tests.integration.test_repositories_statements import STATEMENTS
from tests.support.hot_statements import HOT, NOT_HOT, Statement
from tests.support.large_tables import load
from tests.support.postgres import VERSIONS, Server, Servers, execute

if TYPE_CHECKING:
    from asyncpg.prepared_stmt import PreparedStatement

    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
    Prepared: TypeAlias = PreparedStatement[asyncpg.Record]

# `pg_stat_xact_*` counts what this transaction has read so far, in the tables and through the indexes.
READ: Final = """
    SELECT (SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_xact_user_tables)
        + (SELECT coalesce(sum(pg_stat_get_xact_tuples_returned(i.indexrelid)), 0)
           FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
           WHERE c.relnamespace IN ('public'::regnamespace, 'boatload_queue'::regnamespace))
"""
BLOCKS_AN_ENTRY: Final = 30
"""An entry is at most so many pages away, and one that is written has pages in all indexes."""
UNTIL_SETTLED: Final = 7
FEW: Final = 150
NO_AUTOVACUUM: Final = """
    DO $$
    DECLARE t regclass;
    BEGIN
        FOR t IN SELECT relid FROM pg_stat_user_tables LOOP
            EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = off)', t);
        END LOOP;
    END $$
"""


@pytest.fixture(scope="module", params=VERSIONS)
def large_url(request: pytest.FixtureRequest, postgres_servers: Servers) -> Iterator[str]:
    server = postgres_servers.get(request.param)
    url = server.create_migrated()
    execute(url, *load(), "VACUUM ANALYZE")
    yield url
    server.drop(url)


@pytest.fixture
async def large(large_url: str) -> "AsyncIterator[Connection]":
    """A connection in a transaction that is rolled back. Parallel workers would not count what they read."""
    connection = await asyncpg.connect(large_url, server_settings={"max_parallel_workers_per_gather": "0"})
    await look_up_by_index(connection)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def indexes_of(plan: dict[str, Any]) -> set[str]:
    """The indexes that a plan uses, and in place of one the table that it reads whole."""
    read_whole = {node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"}
    used = {node["Index Name"] for node in nodes(plan) if "Index Name" in node}
    return used | (read_whole - {"pgqueuer"})  # a row for a hundred uploads, and only while they wait


async def entries_read(connection: "Connection", sql: str, *arguments: object) -> int:
    """How much a statement reads at the most in nine goes: from the sixth on its plan may be one for any arguments."""
    statement = await connection.prepare(sql)
    read = []
    for _ in range(9):
        before = await connection.fetchval(READ)
        undo = connection.transaction()
        await undo.start()
        await statement.fetch(*arguments)
        read.append(int(await connection.fetchval(READ) - before))
        await undo.rollback()
    return max(read)


@pytest.mark.parametrize("name", HOT)
async def test_a_hot_statement_goes_by_its_index(large: "Connection", name: str) -> None:
    sql, arguments, indexes, _ = HOT[name]
    used = indexes_of(json.loads(await large.fetchval("EXPLAIN (FORMAT JSON) " + sql, *arguments))[0]["Plan"])
    assert bool(used) == bool(indexes)
    assert used <= indexes


@pytest.mark.parametrize("name", HOT)
async def test_a_hot_statement_reads_little(large: "Connection", name: str) -> None:
    sql, arguments, _, most = HOT[name]
    assert await entries_read(large, sql, *arguments) <= most


def test_each_statement_is_hot_or_has_a_reason_not_to_be() -> None:
    hot = {sql for sql, *_ in HOT.values()}
    assert not hot & NOT_HOT
    assert set(STATEMENTS.values()) == hot | NOT_HOT


async def settled(connection: "Connection", sql: str, arguments: tuple[object, ...]) -> "Prepared":
    """Prepare a statement, and run it until its plan is one for any arguments; nothing is kept of what it does."""
    statement = await connection.prepare(sql)
    for _ in range(UNTIL_SETTLED):
        undo = connection.transaction()
        await undo.start()
        with suppress(asyncpg.ForeignKeyViolationError):  # its batch is still to come
            await statement.fetch(*arguments)
        await undo.rollback()
    return statement


async def explained(
    connection: "Connection", statement: "Prepared", arguments: tuple[object, ...]
) -> tuple[dict[str, Any], int]:
    """Run a prepared statement by the plan that it has; return that with what it took, and the entries read."""
    types = [parameter.name for parameter in statement.get_parameters()]
    values = ", ".join(f"quote_nullable(${number}::{name})" for number, name in enumerate(types, 1))
    literals = await connection.fetchrow(f"SELECT {values}", *arguments)
    assert literals is not None
    given = ", ".join(f"{literal}::{name}" for literal, name in zip(literals, types, strict=True))
    undo = connection.transaction()
    await undo.start()
    before = await connection.fetchval(READ)
    plan = await connection.fetchval(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {statement.get_name()}" + (given and f" ({given})")
    )
    read = int(await connection.fetchval(READ) - before)
    await undo.rollback()
    return json.loads(plan)[0]["Plan"], read


async def fault_of(connection: "Connection", statement: "Prepared", hot: Statement) -> str:
    """What a statement reads beyond what it may, or nothing."""
    _, arguments, indexes, most = hot
    plan, read = await explained(connection, statement, arguments)
    blocks = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    if read <= most and blocks <= most * BLOCKS_AN_ENTRY and indexes_of(plan) <= indexes:
        return ""
    return f"{read} entries instead of {most}, {blocks} blocks, by {sorted(indexes_of(plan))}"


@pytest.mark.parametrize("postgres_version", VERSIONS, indirect=True)
@pytest.mark.parametrize("few", [0, FEW], ids=["empty", "few"])
async def test_a_plan_made_on_small_tables_reads_little_when_they_have_grown(postgres: Server, few: int) -> None:
    url = postgres.create_migrated()
    execute(url, NO_AUTOVACUUM, *(load(0, few) if few else ()), *(["VACUUM ANALYZE"] if few else []))
    database = await Database.open(url, size=1)
    async with database.connection() as connection:
        await connection.execute("SET max_parallel_workers_per_gather = 0")
        prepared = {name: await settled(connection, sql, arguments) for name, (sql, arguments, *_) in HOT.items()}
        execute(url, *load(few))
        async with connection.transaction():
            faults = {name: await fault_of(connection, prepared[name], hot) for name, hot in HOT.items()}
    await database.close()
    postgres.drop(url)
    assert {name: fault for name, fault in faults.items() if fault} == {}
