"""Quotas among many who send, declare and delete at the same time: never more is held, and what is counted is exact."""

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app.domain.batch import Batch
from app.domain.errors import BoatloadError
from app.domain.quota import Holding, Quota
from app.ingest.single import Body
from tests.support.quotas import KIB, used
from tests.support.resuming import body, declare
from tests.support.services import OWNER, Services, chunks, multipart, pattern, serving

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)
QUOTA = Quota(bytes=60 * KIB, files=25, open_batches=6, open_uploads=6)


@pytest.mark.parametrize("processes", [1, 3])
async def test_a_hundred_senders_through_every_door_never_hold_more(
    database_url: str, tmp_path: Path, processes: int
) -> None:
    size, room = 5 * KIB, 40
    async with AsyncExitStack() as stack:
        all_services = [
            await stack.enter_async_context(serving(database_url, tmp_path / "objects", pool_size=6))
            for _ in range(processes)
        ]
        services = all_services[0]
        await services.quotas.begin(Quota(bytes=size * room + size // 2))
        batches = [await services.open() for _ in range(10)]

        async def send(number: int) -> str:
            mine, batch = all_services[number % processes], batches[number % 10]
            data = pattern(size, number)
            match number % 4:
                case 0:
                    await mine.single_files.put(OWNER, batch.id, str(number), Body(body(data), size))
                case 1:
                    await mine.add(batch, data)
                case 2:
                    receipt = await mine.receive(chunks(multipart(data)), batch.id)
                    return receipt.outcomes[0].error.code if receipt.outcomes[0].error else "kept"
                case _:
                    upload = await declare(mine, size, ref=str(number), batch=batch)
                    await mine.resumable.append(OWNER, upload.id, offset=0, body=body(data), length=size)
            return "kept"

        answers = await asyncio.gather(*map(send, range(100)), return_exceptions=True)
        verdicts = Counter(one if isinstance(one, str) else getattr(one, "code", repr(one)) for one in answers)
        assert verdicts == {"kept": room, "quota-exceeded": 100 - room}
        assert await used(services) == Holding(size * room, room, 10, 0)
        assert await services.value("SELECT sum(received_bytes)::bigint FROM uploads") == size * room


class Campaign:
    """Whatever may be done to an owner's batches and uploads, by chance."""

    def __init__(self, services: Services, seed: int) -> None:
        self.services = services
        self.chance = random.Random(seed)
        self.batches: list[Batch] = []
        self.refused = 0

    async def act(self, number: int) -> str:
        """Do something, and return how it ended."""
        try:
            if len(self.batches) < 4:
                self.batches.append(await self.services.open())
            await self.chance.choice([self.add, self.add, self.declare, self.declare, self.change])(number)
        except BoatloadError as error:
            return error.code
        return "done"

    async def add(self, number: int) -> None:
        """Send some files, into a batch or on their own."""
        data = [pattern(self.chance.randrange(6 * KIB), number) for _ in range(self.chance.randrange(1, 4))]
        batch_id = self.chance.choice([None, *(batch.id for batch in self.batches)])
        receipt = await self.services.receive(chunks(multipart(*data)), batch_id)
        self.refused += sum(upload.error is not None for upload in receipt.outcomes)

    async def declare(self, number: int) -> None:
        """Declare a file, and send some of it."""
        size = self.chance.choice([None, 0, self.chance.randrange(1, 9 * KIB)])
        upload = await declare(self.services, size, ref=str(number), batch=self.chance.choice(self.batches))
        part = self.chance.randrange((size or 4 * KIB) + 1)
        data = pattern(part, number)
        await self.services.resumable.append(OWNER, upload.id, offset=0, body=body(data), length=part)

    async def change(self, _number: int) -> None:
        """Change what is there."""
        services, batch = self.services, self.chance.choice(self.batches)
        match self.chance.randrange(5):
            case 0:
                await services.batches.cancel(OWNER, batch.id)
            case 1:
                self.batches.remove(batch)
                await services.batches.delete(OWNER, batch.id, with_uploads=self.chance.random() < 0.5)
            case 2:
                await services.batches.seal(OWNER, batch.id)
            case 3:
                rows = await services.rows("SELECT id FROM uploads ORDER BY random() LIMIT 2")
                await asyncio.gather(*(services.uploads.delete(OWNER, row["id"]) for row in rows))
            case _:
                rows = await services.rows("SELECT id FROM uploads WHERE status = 'pending' LIMIT 30")
                await services.pipeline.process([row["id"] for row in rows])


@pytest.mark.parametrize("seed", [1, 2])
async def test_what_is_counted_is_what_is_held_whatever_is_done(database_url: str, tmp_path: Path, seed: int) -> None:
    verdicts: Counter[str] = Counter()
    async with serving(database_url, tmp_path / "objects") as services:
        await services.quotas.begin(QUOTA)
        campaign = Campaign(services, seed)
        for number in range(0, 160, 4):
            verdicts.update(await asyncio.gather(*map(campaign.act, range(number, number + 4))))
            held = await used(services)
            assert held.bytes <= 60 * KIB
            assert held.files <= 25
            assert held.open_batches <= 6
            assert held.open_uploads <= 6
    assert verdicts["done"] > 40
    assert verdicts["quota-exceeded"]
    assert campaign.refused
