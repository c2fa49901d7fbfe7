"""10,000 uploads while workers are killed and PostgreSQL goes down: all finish, once, and every snapshot adds up."""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

import asyncpg
import httpx
import pytest

from app.db.embedded import EmbeddedPostgres
from app.db.pool import Database
from app.domain.errors import DatabaseUnavailableError
from tests.support.postgres import apart, execute, fetch
from tests.support.server import Boatload, boatload, folder, serving
from tests.support.wire import FINAL, FORM, File, multipart
from tests.support.workers import Worker, workers_of

if TYPE_CHECKING:
    from app.db.pool import Connection

ROUNDS: Final = 20
"""In each, some uploads are sent and one worker is killed."""
UPLOADS: Final = 500
"""In each round, a batch of their own."""
SNAPSHOTS: Final = 10_000
RESTARTS: Final = {6: "restarted", 13: "killed"}
"""The rounds in which PostgreSQL goes down, and how."""

# Whatever changes an upload that had come to its end is kept by the database itself.
AUDIT: Final = (
    "CREATE TABLE second_ends (upload_id uuid, before text, after text)",
    """
    CREATE FUNCTION note_second_end() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO second_ends VALUES (OLD.id, OLD.status, NEW.status);
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER second_end AFTER UPDATE ON uploads FOR EACH ROW
    WHEN (OLD.status IN ('completed', 'failed', 'cancelled')) EXECUTE FUNCTION note_second_end()
    """,
)
SNAPSHOT: Final = """
    SELECT
        b.status, b.version, b.processed_uploads,
        (b.total_uploads, b.receiving_uploads, b.pending_uploads, b.processing_uploads, b.successful_uploads,
         b.failed_uploads, b.cancelled_uploads)
        = (SELECT
            count(*), count(*) FILTER (WHERE u.status = 'receiving'), count(*) FILTER (WHERE u.status = 'pending'),
            count(*) FILTER (WHERE u.status = 'processing'), count(*) FILTER (WHERE u.status = 'completed'),
            count(*) FILTER (WHERE u.status = 'failed'), count(*) FILTER (WHERE u.status = 'cancelled')
        FROM uploads u WHERE u.batch_id = b.id) AS adds_up
    FROM upload_batches b WHERE b.id = $1
"""
# Every attempt before the last ended with one row of the history, that of a lost worker; the last one succeeded.
OTHER_ENDS: Final = """
    SELECT u.id, u.status, u.attempts, u.attempts_before, array_agg(a.attempt || ' ' || a.code) AS history
    FROM uploads u LEFT JOIN upload_attempts a ON a.upload_id = u.id
    GROUP BY u.id
    HAVING u.status <> 'completed' OR u.attempts_before <> 0
        OR count(a.attempt) FILTER (WHERE a.code = 'worker-lost' AND a.attempt < u.attempts) <> u.attempts - 1
        OR count(a.attempt) <> u.attempts - 1
"""


@dataclass(slots=True)
class Campaign:
    database: Database
    chance: random.Random
    batch_ids: list[UUID] = field(default_factory=list)
    snapshots: int = 0
    kills: int = 0
    unfinished: set[UUID] = field(default_factory=set)
    over: bool = False


@pytest.mark.timeout(300)
async def test_ten_thousand_uploads_survive_twenty_kills_and_two_restarts() -> None:
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(10**6))
    sys.stdout.write(f"SEED={seed}\n")
    async with running() as (postgres, server, workers), asyncio.TaskGroup() as tasks:
        campaign = Campaign(await Database.open(postgres.dsn, size=3), random.Random(seed))
        for _ in range(2):
            tasks.create_task(poll(campaign))
        await fight(postgres, server, workers, campaign)
        async with asyncio.timeout(120):
            while campaign.unfinished or campaign.snapshots < SNAPSHOTS:
                keep_running(workers)
                await asyncio.sleep(0.1)
        campaign.over = True
        assert campaign.kills == ROUNDS
        (row,) = fetch(postgres.dsn, "SELECT count(*) AS uploads FROM uploads WHERE status = 'completed'")
        assert row["uploads"] == ROUNDS * UPLOADS
        assert fetch(postgres.dsn, OTHER_ENDS) == []
        assert fetch(postgres.dsn, "SELECT * FROM second_ends") == []
        (row,) = fetch(postgres.dsn, "SELECT count(*) AS lost FROM upload_attempts")
        sys.stdout.write(f"{campaign.snapshots} snapshots, {row['lost']} attempts lost with their worker\n")
        await campaign.database.close()
        assert row["lost"] > 0, "no worker had anything in hand when it was killed; the test tries nothing"


@asynccontextmanager
async def running() -> AsyncIterator[tuple[EmbeddedPostgres, Boatload, list[Worker]]]:
    with folder() as place:
        postgres = EmbeddedPostgres(place)
        url = apart(postgres.start)
        try:
            assert boatload("migrate", "up", database_url=url).returncode == 0
            execute(url, *AUDIT)
            settings = {"lease_seconds": 2, "max_attempts": 50}
            with serving(database_url=url, worker=False) as server, workers_of(server, 2, **settings) as workers:
                for worker in workers:
                    worker.start()
                yield postgres, server, list(workers)
        finally:
            apart(postgres.stop)


async def fight(postgres: EmbeddedPostgres, server: Boatload, workers: list[Worker], campaign: Campaign) -> None:
    """Send, and kill whoever begins to work on it; now and then the database goes as well."""
    body = multipart(*(File(f"{number}.txt", b"%d\n" % number) for number in range(UPLOADS)))
    async with server.async_client() as client:
        for number in range(ROUNDS):
            before = [len(worker.said("claimed")) for worker in workers]
            answer = await patiently(lambda: client.post("/v1/uploads", content=body, headers=FORM))
            campaign.batch_ids.append(batch_id := UUID(answer.json()["batch"]["id"]))
            campaign.unfinished.add(batch_id)
            victim = await first_to_work(workers, before)
            await asyncio.sleep(campaign.chance.uniform(0, 0.02))
            victim.kill()
            campaign.kills += 1
            victim.launch()
            if RESTARTS.get(number) == "restarted":
                await asyncio.to_thread(postgres.stop)
                await asyncio.to_thread(postgres.start)
            elif RESTARTS.get(number) == "killed":
                (row,) = fetch(postgres.dsn, "SELECT setting FROM pg_settings WHERE name = 'data_directory'")
                os.kill(int((Path(row["setting"]) / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)


async def first_to_work(workers: list[Worker], before: list[int]) -> Worker:
    """The worker that claims something more than it had claimed before, once there is one."""
    async with asyncio.timeout(60):
        while True:
            keep_running(workers)
            for worker, count in zip(workers, before, strict=True):
                if len(worker.said("claimed")) > count:
                    return worker
            await asyncio.sleep(0.01)


def keep_running(workers: list[Worker]) -> None:
    """Start those again that found no database when they began, as whoever supervises them would."""
    for worker in workers:
        if worker.process and worker.process.poll() is not None:
            worker.launch()


async def patiently(ask: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """Ask again for as long as the database is down: until then nothing was kept."""
    async with asyncio.timeout(60):
        while (answer := await ask()).status_code == httpx.codes.SERVICE_UNAVAILABLE:
            await asyncio.sleep(0.1)
    assert answer.status_code == httpx.codes.CREATED, answer.text
    return answer


async def poll(campaign: Campaign) -> None:
    """Take one snapshot after another of a batch and its rows, and compare each with the one before."""
    seen: dict[UUID, asyncpg.Record] = {}
    while not campaign.over:
        with suppress(DatabaseUnavailableError):
            async with campaign.database.connection() as connection:
                while not campaign.over:
                    await take_snapshot(connection, campaign, seen)
                    await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)


async def take_snapshot(connection: "Connection", campaign: Campaign, seen: dict[UUID, asyncpg.Record]) -> None:
    among = list(campaign.unfinished) if campaign.chance.random() < 0.9 else campaign.batch_ids
    if not among:
        return
    batch_id = campaign.chance.choice(among)
    now = await connection.fetchrow(SNAPSHOT, batch_id)
    assert now
    assert now["adds_up"], now
    then = seen.get(batch_id, now)
    assert then["version"] <= now["version"]
    assert then["processed_uploads"] <= now["processed_uploads"]
    assert then["status"] not in FINAL or then["status"] == now["status"]
    seen[batch_id] = now
    campaign.snapshots += 1
    if now["status"] in FINAL:
        campaign.unfinished.discard(batch_id)
