"""Counts equal the rows at every snapshot, while everything that may happen to a batch happens at once."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

import asyncpg

from app.domain.batch import FINAL_BATCH, Batch
from app.domain.errors import BatchClosedError, DatabaseUnavailableError, NotFoundError, TooManyUploadsError
from app.domain.upload import Refusal, Upload
from app.ingest.arrival import Arrival
from app.ingest.submission import Submission
from app.processing.outcome import Outcome
from tests.support.rows import WRONG_COUNTS
from tests.support.services import OWNER, Services, serving
from tests.support.workshops import final, found, out_of_reach, passing

SNAPSHOTS: Final = 2000
WANTED: Final = {"processing", "completed", "cancelled"}
ACCOUNT: Final = """
    SELECT id, version, processed_uploads, successful_uploads, failed_uploads, status FROM upload_batches
"""
DEADLOCKS: Final = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
OPEN_UPLOADS: Final = "SELECT id FROM uploads WHERE status IN ('pending', 'processing') LIMIT 100"
EXPIRE: Final = """
    UPDATE uploads u SET lease_expires_at = now() - interval '1 second'
    FROM (SELECT id FROM uploads WHERE status = 'processing' FOR UPDATE SKIP LOCKED) held WHERE u.id = held.id
"""


class HastyWorkshop:
    """Answers at once; some bytes are out of reach, and now and then something breaks, for good or not."""

    def __init__(self, chance: random.Random) -> None:
        self.chance: random.Random | None = chance

    async def process(self, uploads: Sequence[Upload]) -> AsyncIterator[Outcome]:
        await asyncio.sleep(0.002)
        for upload in uploads:
            chance = self.chance.random() if self.chance else 1
            yield next(end for limit, end in ENDS if chance <= limit)(upload)


ENDS: Final = ((0.1, out_of_reach), (0.2, passing), (0.25, final), (1, found))


@dataclass
class World:
    """Batches by what may still happen to them, and what was promised of them."""

    chance: random.Random
    batches: list[Batch] = field(default_factory=list)
    totals_when_cancelled: dict[UUID, int] = field(default_factory=dict)
    shrinks: set[UUID] = field(default_factory=set)
    """Batches from which uploads were deleted, or that were; or in which what failed was retried."""
    seen: set[str] = field(default_factory=set)
    """States that batches were in."""
    snapshots: int = 0

    @property
    def goes_on(self) -> bool:
        return self.snapshots < SNAPSHOTS or not self.seen >= WANTED

    def any_batch(self) -> Batch:
        return self.chance.choice(self.batches[-12:])


async def observe(dsn: str, world: World) -> None:
    """Compare accounts and rows in one snapshot after another; and each account with the one before it."""
    connection = await asyncpg.connect(dsn)
    before: dict[UUID, asyncpg.Record] = {}
    try:
        while world.goes_on:
            shrunk = set(world.shrinks)
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                wrong = await connection.fetch(WRONG_COUNTS)
                accounts = {row["id"]: row for row in await connection.fetch(ACCOUNT)}
            assert wrong == []
            for batch_id, now in accounts.items():
                then = before.get(batch_id, now)
                assert then["version"] <= now["version"]
                if batch_id not in shrunk | world.shrinks:
                    assert all(then[count] <= now[count] for count in ACCOUNT_COUNTS)
                    assert then["status"] not in FINAL_BATCH or then["status"] == now["status"]
            before = accounts
            world.seen |= {account["status"] for account in accounts.values()}
            world.snapshots += 1
    finally:
        await connection.close()


ACCOUNT_COUNTS: Final = ("processed_uploads", "successful_uploads", "failed_uploads")


async def add(services: Services, world: World) -> None:
    batch = world.any_batch()
    refused = [Arrival(0, "x", None, Refusal("invalid-filename", "No."))] * (world.chance.random() < 0.2)
    files = services.files(*[b"x" * world.chance.randrange(50) for _ in range(world.chance.randrange(1, 5))])
    await services.group.submit(Submission(OWNER, batch.id, files + refused, seals=world.chance.random() < 0.02))


async def open_batch(services: Services, world: World) -> None:
    expected = world.chance.choice([None, None, 3, 20])
    world.batches.append(await services.open(expected=expected))


async def cancel(services: Services, world: World) -> None:
    cancelled = await services.batches.cancel(OWNER, world.any_batch().id)
    world.totals_when_cancelled[cancelled.id] = cancelled.total_uploads


async def seal(services: Services, world: World) -> None:
    await services.batches.seal(OWNER, world.any_batch().id)


async def delete_upload(services: Services, world: World) -> None:
    batch = world.any_batch()
    world.shrinks.add(batch.id)
    page = await services.uploads.list_page(OWNER, batch.id, status=None, after=UUID(int=0), limit=50)
    if page:
        await services.uploads.delete(OWNER, world.chance.choice(page).id)


async def delete_batch(services: Services, world: World) -> None:
    batch = world.any_batch()
    world.shrinks.add(batch.id)
    await services.batches.delete(OWNER, batch.id, with_uploads=world.chance.random() < 0.5)


async def retry(services: Services, world: World) -> None:
    batch = world.any_batch()
    world.shrinks.add(batch.id)
    await services.batches.retry(OWNER, batch.id, None)


async def process(services: Services, _world: World) -> None:
    await services.pipeline.process([row["id"] for row in await services.rows(OPEN_UPLOADS)])


async def expire_and_requeue(services: Services, _world: World) -> None:
    await services.rows(EXPIRE)
    with suppress(DatabaseUnavailableError):  # a claim came between; the next sweep will find what is left
        await services.sweeper.requeue()


ACTS: Final[dict[Callable[[Services, World], Awaitable[None]], int]] = {
    add: 40,
    process: 25,
    delete_upload: 8,
    open_batch: 6,
    seal: 4,
    cancel: 6,
    retry: 3,
    delete_batch: 2,
    expire_and_requeue: 6,
}


async def act(services: Services, world: World) -> None:
    while world.goes_on:
        (choice,) = world.chance.choices(list(ACTS), list(ACTS.values()))
        try:
            await choice(services, world)
        except (NotFoundError, BatchClosedError, TooManyUploadsError):
            await asyncio.sleep(0)


async def test_counts_equal_rows_at_every_snapshot(database_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "objects"
    world = World(random.Random(7))
    workshop = HastyWorkshop(world.chance)
    options = {"sandbox": workshop, "lease": timedelta(seconds=1), "max_attempts": 2}
    async with serving(database_url, folder, **options) as one, serving(database_url, folder, **options) as two:
        for _ in range(8):
            await open_batch(one, world)
        async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
            for _ in range(2):
                tasks.create_task(observe(database_url, world))
            for services in (one, two) * 5:
                tasks.create_task(act(services, world))
        workshop.chance = None
        while ids := [row["id"] for row in await one.rows(OPEN_UPLOADS)]:
            await one.rows(EXPIRE)
            await one.pipeline.process(ids)
        assert await one.counted_wrong() == []
        assert await one.value(DEADLOCKS) == 0
        for row in await one.rows("SELECT * FROM upload_batches"):
            total = world.totals_when_cancelled.get(row["id"], row["total_uploads"])
            assert row["total_uploads"] == total or row["id"] in world.shrinks, "it grew after its cancel"
            assert (row["status"] in FINAL_BATCH) == (row["sealed_at"] is not None or row["status"] == "cancelled")
