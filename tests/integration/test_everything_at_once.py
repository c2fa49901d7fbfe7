"""All doors, owners, workers and sweepers of two processes at once: the account stays exact, and no byte is lost.

What a request is answered is not looked at, but that it is an answer of ours and no fault of the service.
"""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest

from app.domain.batch import Batch
from app.domain.errors import BoatloadError, DatabaseUnavailableError, StorageFullError, StorageUnavailableError
from app.domain.ids import utc_now
from app.domain.upload import Upload
from app.ingest.single import Body
from app.processing.expiry import expire_uploads
from app.processing.outcome import Outcome
from tests.support.resuming import Broken, body, entry
from tests.support.services import LIMITS, OWNER, Services, chunks, multipart, serving
from tests.support.workshops import ScriptedWorkshop, final, found, out_of_reach, passing

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)

CLIENTS: Final = 12
STEPS: Final = 100
SMALL: Final = replace(LIMITS, pack_file_bytes=64 * 1024, max_file_bytes=300_000)
SIZES: Final = (0, 1, 100, 5000, 70_000, 200_000)
REFS: Final = [f"ref {number}" for number in range(40)]
WHOLE: Final = "SELECT id FROM uploads WHERE sha256 IS NOT NULL AND object_id IS NOT NULL"
BEGUN: Final = "SELECT object_id, received_bytes FROM uploads WHERE status = 'receiving' AND object_id IS NOT NULL"
ENDLESS: Final = "SELECT count(*) FROM uploads WHERE status = 'receiving' AND expires_at IS NULL"
OBJECTS: Final = "SELECT DISTINCT object_id FROM uploads WHERE object_id IS NOT NULL"


@dataclass
class Clients:
    """What all clients together know, and what they do by chance."""

    processes: list[Services]
    chance: random.Random
    batches: list[Batch] = field(default_factory=list)
    uploads: list[UUID] = field(default_factory=list)
    bytes_sent_before: list[bytes] = field(default_factory=list)

    async def step(self) -> None:
        """Do one thing. Raises what the service says, or Broken where the client went away."""
        action = self.chance.choices(list(ACTIONS), list(ACTIONS.values()))[0]
        if not (self.batches and self.uploads):
            action = Clients.open
        await action(self, self.chance.choice(self.processes))

    def _content(self) -> bytes:
        if self.bytes_sent_before and self.chance.random() < 0.4:
            return self.chance.choice(self.bytes_sent_before)
        self.bytes_sent_before.append(self.chance.randbytes(self.chance.choice(SIZES)))
        return self.bytes_sent_before[-1]

    @property
    def _batch(self) -> UUID:
        return self.chance.choice(self.batches[-4:]).id

    @property
    def _upload(self) -> UUID:
        return self.chance.choice(self.uploads[-20:])

    def _breaks(self) -> bool:
        return self.chance.random() < 0.2

    async def open(self, services: Services) -> None:
        batch = await services.open(expected=self.chance.choice([None, None, 5]))
        self.batches.append(batch)
        self.uploads += [upload.id for upload in await services.add(batch, self._content())]

    async def put(self, services: Services) -> None:
        content = self._content()
        length = self.chance.choice([len(content), None])
        sent = Body(body(content, breaks=self._breaks()), length)
        upload, _ = await services.single_files.put(OWNER, self._batch, self.chance.choice(REFS), sent)
        self.uploads.append(upload.id)

    async def put_content(self, services: Services) -> None:
        content = self._content()
        digest = hashlib.sha256(content).digest() if self._breaks() else None
        sent = Body(body(content), self.chance.choice([len(content), None]), digest)
        await services.single_files.put_content(OWNER, self._upload, sent, offset=None)

    async def declare(self, services: Services) -> None:
        content = self._content()
        one = entry(self.chance.choice(REFS), self.chance.choice([len(content), None]), of=content)
        _, (declared,) = await services.manifests.declare(OWNER, self._batch, [one])
        self.uploads.append(declared.upload.id)
        if self.chance.random() < 0.5:
            rest = body(content[declared.offset :], breaks=self._breaks())
            await services.resumable.append(
                OWNER, declared.upload.id, offset=declared.offset, body=rest, final_size=len(content)
            )

    async def append(self, services: Services) -> None:
        upload = await services.uploads.get(OWNER, self._upload)
        missing = max(0, (upload.size_bytes or 1000) - upload.received_bytes)
        piece = self.chance.randbytes(self.chance.choice([missing, missing // 2]))
        sent = body(piece, chunk=self.chance.choice([1000, 65_536]), breaks=self._breaks())
        await services.resumable.append(OWNER, upload.id, offset=upload.received_bytes, body=sent)

    async def send_many(self, services: Services) -> None:
        contents = [self._content() for _ in range(self.chance.randrange(1, 4))]
        too_large = [bytes(SMALL.max_file_bytes + 1)] if self._breaks() else []
        sent = chunks(multipart(*contents, *too_large, end=not self._breaks()))
        receipt = await services.receive(sent, self.chance.choice([self._batch, None]))
        self.uploads += [upload.id for upload in receipt.outcomes]

    async def settle(self, services: Services) -> None:
        await services.resumable.settle(OWNER, self._upload)

    async def drop(self, services: Services) -> None:
        await services.uploads.delete(OWNER, self._upload)

    async def end(self, services: Services) -> None:
        owners: list[Callable[[UUID], Awaitable[object]]] = [
            partial(services.batches.seal, OWNER),
            partial(services.batches.cancel, OWNER),
            partial(services.batches.delete, OWNER, with_uploads=False),
            partial(services.batches.delete, OWNER, with_uploads=True),
        ]
        await self.chance.choice(owners)(self._batch)

    async def retry(self, services: Services) -> None:
        await services.batches.retry(OWNER, self._batch, None)

    async def work(self, services: Services) -> None:
        pending = await services.rows("SELECT id FROM uploads WHERE status = 'pending' LIMIT 20")
        await services.pipeline.process([row["id"] for row in pending])

    async def sweep(self, services: Services) -> None:
        await services.sweeper.remove_abandoned()
        await services.sweeper.requeue()

    async def expire(self, services: Services) -> None:
        later = utc_now() + LIMITS.batch_lifetime
        await expire_uploads(services.database, lambda: later)


ACTIONS: Final[Mapping[Callable[[Clients, Services], Awaitable[None]], float]] = {
    Clients.open: 5,
    Clients.put: 10,
    Clients.put_content: 4,
    Clients.declare: 8,
    Clients.append: 14,
    Clients.send_many: 6,
    Clients.settle: 2,
    Clients.drop: 2,
    Clients.end: 5,
    Clients.retry: 2,
    Clients.work: 4,
    Clients.sweep: 1,
    Clients.expire: 0.2,
}


@pytest.fixture
async def processes(database_url: str, tmp_path: Path) -> AsyncIterator[list[Services]]:
    chance = random.Random(7)
    workshop = ScriptedWorkshop()

    def end(upload: Upload) -> Outcome:
        return chance.choice([found, found, passing, final, out_of_reach])(upload)

    workshop.ends = end
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                serving(
                    database_url,
                    tmp_path / "objects",
                    sandbox=workshop,
                    limits=SMALL,
                    pack_bytes=256 * 1024,
                    max_attempts=2,
                    min_age=timedelta(0),
                )
            )
            for _ in range(2)
        ]


async def test_whatever_comes_together_the_account_is_exact_and_all_bytes_are_there(processes: list[Services]) -> None:
    clients = Clients(processes, random.Random(1))
    services = processes[0]
    wrong: list[object] = []

    async def one_client() -> None:
        for step in range(STEPS):
            try:
                await clients.step()
            except (StorageFullError, StorageUnavailableError, DatabaseUnavailableError):
                raise
            except (BoatloadError, Broken):
                pass
            if step % 10 == 0:
                wrong.extend(await services.counted_wrong())

    await asyncio.gather(*(one_client() for _ in range(CLIENTS)))
    assert wrong == []
    assert await services.counted_wrong() == []
    for row in await services.rows(WHOLE):
        await services.content(row["id"])
    for row in await services.rows(BEGUN):
        reader = services.store.open(row["object_id"])
        reader.read(0, row["received_bytes"])
        reader.close()
    assert await services.value(ENDLESS) == 0
    assert [one.budget.free_bytes for one in processes] == [one.budget.total_bytes for one in processes]
    for _ in range(2):  # the rows first, and then what no row knows any more
        await services.sweeper.remove_abandoned()
    needed = {row["object_id"] for row in await services.rows(OBJECTS)}
    stored = set(services.store.list())
    assert needed <= stored
    assert len(stored - needed) <= len(processes), "each holds the pack that it has open"
