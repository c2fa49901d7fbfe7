"""The queue: part of the transaction that stores, and a messenger that survives what happens to its connection."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias
from uuid import UUID

import asyncpg
import pytest

from app.domain.ids import new_id
from app.jobs import queue

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
JOBS = "SELECT payload FROM boatload_queue.pgqueuer ORDER BY id"
WORKERS = "application_name = 'boatload-worker' AND datname = current_database()"
LISTENING = f"SELECT count(*) FROM pg_stat_activity WHERE {WORKERS} AND query ILIKE '%pgqueuer%'"
TERMINATE = f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {WORKERS}"


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


class Handler:
    """Collects what it is given."""

    def __init__(self, each: Callable[[list[UUID]], Awaitable[object]] | None = None) -> None:
        self.handled: list[list[UUID]] = []
        self.each = each

    async def __call__(self, upload_ids: list[UUID]) -> None:
        self.handled.append(upload_ids)
        if self.each:
            await self.each(upload_ids)

    async def until(self, count: int, *, seconds: float = 20) -> float:
        """How many seconds it took until so many jobs had come."""
        began = time.monotonic()
        async with asyncio.timeout(seconds):
            while len(self.handled) < count:
                await asyncio.sleep(0.01)
        return time.monotonic() - began


@asynccontextmanager
async def consuming(url: str, handler: Handler, *, count: int = 1) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    tasks = [asyncio.create_task(queue.consume(url, handler, stop)) for _ in range(count)]
    yield stop
    stop.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 10)


async def enqueue(connection: Connection, *jobs: Sequence[UUID]) -> None:
    for job in jobs:
        await queue.enqueue(connection, job)


async def emptied(connection: Connection) -> None:
    async with asyncio.timeout(20):
        while await connection.fetch(JOBS):
            await asyncio.sleep(0.02)


async def test_jobs_exist_exactly_if_their_transaction_commits(connection: Connection) -> None:
    undone = connection.transaction()
    await undone.start()
    await queue.enqueue(connection, [new_id()])
    await undone.rollback()
    assert await connection.fetch(JOBS) == []
    ids = [new_id() for _ in range(250)]
    async with connection.transaction():
        await queue.enqueue(connection, ids)
        await queue.enqueue(connection, [])
    jobs = [queue.upload_ids_in(row["payload"]) for row in await connection.fetch(JOBS)]
    assert [len(job) for job in jobs] == [100, 100, 50]
    assert [one for job in jobs for one in job] == ids


async def test_jobs_of_before_and_of_now_are_handled_at_once(connection: Connection, database_url: str) -> None:
    jobs = [[new_id(), new_id()], [new_id()]]
    handler = Handler()
    await enqueue(connection, jobs[0])
    async with consuming(database_url, handler):
        await handler.until(1)
        await emptied(connection)
        await asyncio.sleep(0.3)
        await enqueue(connection, jobs[1])
        assert await handler.until(2) < 1, "woken, not polled"
        await emptied(connection)
    assert handler.handled == jobs


async def test_two_workers_share_the_jobs(connection: Connection, database_url: str) -> None:
    jobs = [[new_id()] for _ in range(60)]
    handler = Handler(lambda _ids: asyncio.sleep(0.01))
    await enqueue(connection, *jobs)
    async with consuming(database_url, handler, count=2):
        await handler.until(60)
        await emptied(connection)
    assert sorted(handler.handled) == sorted(jobs)


async def test_a_lost_connection_is_made_again_within_seconds(connection: Connection, database_url: str) -> None:
    handler = Handler()
    await enqueue(connection, [new_id()])
    async with consuming(database_url, handler):
        await handler.until(1)
        await emptied(connection)
        assert await connection.fetch(TERMINATE) == [(True,)]
        await enqueue(connection, [new_id()])
        assert await handler.until(2) < 6


async def test_a_connection_lost_under_a_handler_brings_the_job_again_at_most(
    connection: Connection, database_url: str
) -> None:
    running, done = asyncio.Event(), asyncio.Event()

    async def slow(_ids: list[UUID]) -> None:
        running.set()
        await done.wait()

    handler = Handler(slow)
    jobs = [[new_id()], [new_id()]]
    await enqueue(connection, jobs[0])
    async with consuming(database_url, handler):
        await asyncio.wait_for(running.wait(), 20)
        await connection.fetch(TERMINATE)
        done.set()
        await enqueue(connection, jobs[1])
        async with asyncio.timeout(8):
            while jobs[1] not in handler.handled:
                await asyncio.sleep(0.02)
    assert handler.handled[0] == jobs[0]


async def test_a_handler_that_raises_is_survived(connection: Connection, database_url: str) -> None:
    async def fails(_ids: list[UUID]) -> None:
        raise ZeroDivisionError

    handler = Handler(fails)
    await enqueue(connection, [new_id()])
    async with consuming(database_url, handler):
        await handler.until(1)
        await emptied(connection)
        await connection.execute(
            "INSERT INTO boatload_queue.pgqueuer (priority, status, entrypoint, payload)"
            " VALUES (0, 'queued', 'process_uploads', 'no ids')"
        )
        await enqueue(connection, [new_id()], [new_id()])
        await handler.until(3)
        await emptied(connection)


async def test_a_killed_workers_job_comes_back(connection: Connection, database_url: str) -> None:
    handler = Handler()
    job = [new_id()]
    await enqueue(connection, job)
    await connection.execute(
        "UPDATE boatload_queue.pgqueuer SET status = 'picked', queue_manager_id = gen_random_uuid(),"
        " heartbeat = now() - interval '7 seconds', updated = now() - interval '7 seconds'"
    )
    async with consuming(database_url, handler):
        assert await handler.until(1) < 5
        await emptied(connection)
    assert handler.handled == [job]


async def test_stop_ends_an_idle_worker_at_once(connection: Connection, database_url: str) -> None:
    handler = Handler()
    await enqueue(connection, [new_id()])
    async with consuming(database_url, handler):
        await handler.until(1)
        await emptied(connection)
        began = time.monotonic()
    assert time.monotonic() - began < 1
    assert await connection.fetchval(LISTENING) == 0


async def test_stop_lets_what_was_begun_end_and_leaves_the_rest(connection: Connection, database_url: str) -> None:
    ended: list[list[UUID]] = []

    async def slow(upload_ids: list[UUID]) -> None:
        await asyncio.sleep(0.5)
        ended.append(upload_ids)

    handler = Handler(slow)
    await enqueue(connection, *[[new_id()] for _ in range(100)])
    async with consuming(database_url, handler) as stop:
        await handler.until(1)
        stop.set()
        began = time.monotonic()
    assert time.monotonic() - began < 3
    assert sorted(ended) == sorted(handler.handled)
    left = await connection.fetchval("SELECT count(*) FROM boatload_queue.pgqueuer WHERE status = 'queued'")
    assert left == 100 - len(ended)


async def test_stop_ends_a_worker_that_cannot_connect(postgres_version: str, tmp_path: Path) -> None:
    async with consuming(f"postgresql://nobody@/none?host={tmp_path}", Handler()):
        await asyncio.sleep(0.2)
        began = time.monotonic()
    assert time.monotonic() - began < 2
