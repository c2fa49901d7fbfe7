"""The group commits of two processes on the same few batches, refs and contents, while disk and database fail.

What is acknowledged is there, with its bytes, and nothing else is counted; no neighbour is failed by another.
"""

import asyncio
import fcntl
import random
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

import asyncpg
import pytest
from structlog.testing import capture_logs

from app.domain.batch import Batch
from app.domain.errors import BoatloadError, DatabaseUnavailableError, StorageFullError, StorageUnavailableError
from app.domain.ids import new_id
from app.domain.quota import Quota
from app.ingest import group
from app.ingest.submission import Submission
from tests.support.resuming import entry
from tests.support.services import LIMITS, OWNER, STRANGER, FlakyStore, Services, serving

pytestmark = pytest.mark.parametrize("postgres_version", ["18"], indirect=True)

CLIENTS: Final = 12
STEPS: Final = 60
SMALL: Final = replace(LIMITS, pack_file_bytes=2000, max_files_per_batch=100)
SIZES: Final = (0, 1, 100, 1500, 2500)
REFS: Final = [f"ref {number}" for number in range(25)]
FAULTS: Final = (StorageFullError, StorageUnavailableError, DatabaseUnavailableError)
WHOLE: Final = "SELECT id, user_id FROM uploads WHERE sha256 IS NOT NULL AND object_id IS NOT NULL"
CUT: Final = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'boatload'
"""
USAGE: Final = """
    SELECT user_id, bytes, files, open_batches FROM quota_usage WHERE (bytes, files, open_batches) <> (0, 0, 0)
    ORDER BY user_id
"""
OBJECTS: Final = "SELECT DISTINCT object_id FROM uploads WHERE object_id IS NOT NULL"


@dataclass
class Clients:
    """What all clients together know, and what they do by chance."""

    processes: list[Services]
    chance: random.Random
    fails: bool
    batches: list[Batch] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    acknowledged: dict[UUID, tuple[Batch, bytes]] = field(default_factory=dict)
    deleted: set[UUID] = field(default_factory=set)

    async def step(self) -> None:
        """Do one thing. Raises what the service says."""
        action = self.chance.choices(list(ACTIONS), list(ACTIONS.values()))[0]
        await action(self, self.chance.choice(self.processes))

    async def open(self, services: Services) -> None:
        owner, expected = self.chance.choice([OWNER, OWNER, STRANGER]), self.chance.choice([None, None, 8])
        self.batches.append(await services.open(owner=owner, expected=expected))

    @property
    def _batch(self) -> Batch:
        return self.chance.choice(self.batches[-6:])

    def _content(self) -> bytes:
        if not self.contents or self.chance.random() < 0.5:
            self.contents.append(self.chance.randbytes(self.chance.choice(SIZES)))
        return self.chance.choice(self.contents[-40:])

    async def submit(self, services: Services) -> None:
        batch, several = self._batch, self.chance.random() < 0.5
        contents = [self._content() for _ in range(self.chance.randrange(2, 6) if several else 1)]
        files = services.files(*contents)
        if not several:
            files[0].ref = self.chance.choice([None, *REFS])
        submission = Submission(batch.user_id, batch.id, files, one_by_one=several)
        if self.chance.random() < 0.1:
            submission.batch_id, submission.opens, submission.seals = new_id(), True, several
        waiting = asyncio.ensure_future(services.group.submit(submission))
        if self.chance.random() < 0.05:
            await asyncio.sleep(self.chance.random() / 50)
            waiting.cancel()
            await asyncio.wait([waiting])
            return
        joined, uploads = await waiting
        for content, upload in zip(contents, uploads, strict=True):
            if upload.error is None:
                self.acknowledged[upload.id] = joined, content

    async def declare(self, services: Services) -> None:
        batch, content = self._batch, self._content()
        await services.manifests.declare(
            batch.user_id, batch.id, [entry(self.chance.choice(REFS), len(content), of=content)]
        )

    async def drop(self, services: Services) -> None:
        if self.acknowledged:
            upload_id = self.chance.choice(list(self.acknowledged))
            self.deleted.add(upload_id)
            await services.uploads.delete(self.acknowledged[upload_id][0].user_id, upload_id)

    async def end(self, services: Services) -> None:
        batch, how = self._batch, self.chance.randrange(4)
        if how < 2:
            await (services.batches.seal, services.batches.cancel)[how](batch.user_id, batch.id)
        else:
            self.deleted |= {batch.id} if how == 3 else set()
            await services.batches.delete(batch.user_id, batch.id, with_uploads=how == 3)

    async def limit(self, services: Services) -> None:
        await services.quotas.set(self.chance.choice([OWNER, STRANGER]), Quota(files=self.chance.choice([50, 10_000])))

    async def sweep(self, services: Services) -> None:
        await services.sweeper.remove_abandoned()

    async def cut(self, services: Services) -> None:
        if self.fails:
            connection = await asyncpg.connect(services.dsn)
            await connection.execute(CUT)
            await connection.close()


ACTIONS: Final[Mapping[Callable[[Clients, Services], Awaitable[None]], float]] = {
    Clients.submit: 60,
    Clients.open: 3,
    Clients.declare: 5,
    Clients.drop: 6,
    Clients.end: 2,
    Clients.limit: 0.3,
    Clients.sweep: 1,
    Clients.cut: 0.3,
}


def failing(folder: Path, chance: random.Random) -> FlakyStore:
    """A store that fails now and then, but for the files that a test makes."""

    def before(call: str) -> None:
        own = threading.current_thread() is threading.main_thread()
        if not own and call in {"write", "sync"} and chance.random() < 0.02:
            raise chance.choice([StorageFullError, StorageUnavailableError])

    return FlakyStore(folder, before)


@pytest.mark.parametrize("fails", [False, True])
async def test_whatever_groups_meet_what_is_acknowledged_is_there(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    folder, chance = tmp_path / "objects", random.Random(3)
    monkeypatch.setattr(group, "GROUP_UPLOADS", 20)
    async with AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(
                serving(
                    database_url,
                    folder,
                    store=failing(folder, chance) if fails else None,
                    limits=SMALL,
                    pack_bytes=30_000,
                    min_age=timedelta(0),
                )
            )
            for _ in range(2)
        ]
        services, clients = processes[0], Clients(processes, chance, fails)
        for _ in range(6):
            await clients.open(services)

        async def one_client(number: int) -> None:
            for step in range(STEPS):
                try:
                    if (number, step) == (0, STEPS // 3):
                        await clients.limit(services)
                    await clients.step()
                except FAULTS:
                    if not fails:
                        raise
                except BoatloadError:
                    pass

        with capture_logs() as logs:
            await asyncio.gather(*(one_client(number) for number in range(CLIENTS)))
        assert [line for line in logs if line.get("exc_info")] == []
        await look(services, clients)
    for path in folder.glob("*/*"):
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nothing is left open


async def look(services: Services, clients: Clients) -> None:
    """Compare what is there with what was said."""
    there = {row["id"]: await services.content(row["id"], row["user_id"]) for row in await services.rows(WHOLE)}
    for upload_id, (batch, content) in clients.acknowledged.items():
        if clients.deleted.isdisjoint({upload_id, batch.id}):
            assert there[upload_id] == content
    assert await services.counted_wrong() == []
    usage = await services.rows(USAGE)
    assert usage
    await services.quotas.recount()
    assert await services.rows(USAGE) == usage
    for _ in range(2):
        await services.sweeper.remove_abandoned()
    needed = {row["object_id"] for row in await services.rows(OBJECTS)}
    assert len(set(services.store.list()) ^ needed) <= len(clients.processes), "each holds the pack that it has open"
