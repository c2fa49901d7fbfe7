"""The service without HTTP, on a real database and a real folder; files to give to it, and what the rows then say."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg

from app.api.multipart import MultipartBody
from app.db.pool import Database
from app.domain.batch import Batch
from app.domain.guards import Guards
from app.domain.ids import Clock, Ids, new_id, utc_now
from app.domain.limits import ImageLimits, Limits
from app.domain.retry import RetryPolicy
from app.domain.upload import Upload
from app.ingest.arrival import Arrival
from app.ingest.batches import BatchService
from app.ingest.budget import Budget
from app.ingest.group import GroupCommit
from app.ingest.ledger import Ledger
from app.ingest.manifest import Manifests
from app.ingest.quotas import QuotaService
from app.ingest.receive import Receipt, Receiver, Target
from app.ingest.resumable import Resumable
from app.ingest.single import SingleFiles
from app.ingest.submission import Submission
from app.ingest.uploads import UploadService
from app.ingest.writers import Writers
from app.processing import registry
from app.processing.choices import choices_of
from app.processing.outcome import Workshop
from app.processing.pipeline import Pipeline
from app.processing.protocol import Orders
from app.processing.sandbox import Sandbox
from app.processing.sweeps import Sweeper
from app.processing.thumbnails import Thumbnails
from app.storage.base import Claim, ObjectReader, ObjectWriter, Store
from app.storage.local import LocalStore
from app.storage.pack import PackWriter
from tests.support.rows import WRONG_COUNTS

MIB: Final = 1 << 20
OWNER: Final = UUID("11111111-1111-4111-8111-111111111111")
STRANGER: Final = UUID("22222222-2222-4222-8222-222222222222")
BOUNDARY: Final = b"----boatload"
LEASE: Final = timedelta(seconds=15)
LIMITS: Final = Limits(
    max_file_bytes=8 * MIB,
    max_request_bytes=1 << 30,
    max_parts=20_000,
    max_files_per_batch=1_000_000,
    pack_file_bytes=MIB,
    batch_lifetime=timedelta(days=1),
)

WAITING: Final = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@dataclass(frozen=True, slots=True)
class Services:
    """What one process runs, wired as it is there, but for what a test chooses."""

    dsn: str
    folder: Path
    database: Database
    store: Store
    limits: Limits
    group: GroupCommit
    budget: Budget
    receiver: Receiver
    batches: BatchService
    uploads: UploadService
    manifests: Manifests
    resumable: Resumable
    single_files: SingleFiles
    quotas: QuotaService
    pipeline: Pipeline
    thumbnails: Thumbnails
    sweeper: Sweeper

    async def open(self, *, owner: UUID = OWNER, expected: int | None = None) -> Batch:
        """Open a batch."""
        return await self.batches.open(owner, label=None, expected_uploads=expected, metadata={}, expires_in=None)

    def files(self, *contents: bytes) -> list[Arrival]:
        """Return whole files, as a parser leaves them: small ones in memory, big ones synced."""
        return [self._file(index, content) for index, content in enumerate(contents)]

    def _file(self, index: int, content: bytes) -> Arrival:
        arrival = Arrival(index, f"{index}.bin", None, None, len(content), hashlib.sha256(content).digest())
        if len(content) > self.limits.pack_file_bytes:
            arrival.writer = self.store.create(new_id())
            arrival.writer.write([content])
            arrival.writer.sync()
        elif content:
            arrival.pieces = [content]
        return arrival

    async def add(self, batch: Batch, *contents: bytes) -> list[Upload]:
        """Add files to an open batch, in one submission."""
        _, uploads = await self.group.submit(Submission(batch.user_id, batch.id, self.files(*contents)))
        return uploads

    async def receive(
        self, body: AsyncIterator[bytes], batch_id: UUID | None = None, *, owner: UUID = OWNER, named: bool = False
    ) -> Receipt:
        """Take a multipart body in; without a batch it opens and seals its own. `named`: each name is a ref as well."""

        async def find_batch(_field: str | None) -> UUID | None:
            return batch_id

        return await self.receiver.receive(
            body,
            lambda reception: MultipartBody(BOUNDARY, reception, max_parts=self.limits.max_parts),
            Target(owner, find_batch, named=named),
        )

    async def content(self, upload_id: UUID, owner: UUID = OWNER) -> bytes:
        """Return an upload's bytes, which must match what is recorded of them."""
        content = await self.uploads.open_content(owner, upload_id)
        try:
            data = await content.read(0, content.size_bytes)
        finally:
            content.close()
        assert hashlib.sha256(data).digest() == content.sha256
        return data

    async def rows(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Return the rows of a query."""
        async with self.database.connection() as connection:
            return await connection.fetch(query, *arguments)

    async def value(self, query: str, *arguments: object) -> object:
        """Return the one value of a query."""
        return (await self.rows(query, *arguments))[0][0]

    async def counted_wrong(self) -> list[UUID]:
        """Return the batches whose account differs from their rows."""
        return [row["id"] for row in await self.rows(WRONG_COUNTS)]


def orders_for(folder: Path, **changes: Any) -> Orders:  # noqa: ANN401 - the fields of Orders
    """What children are told, but for `changes`."""
    orders = Orders(
        folder=str(folder),
        processors=("inspect", "image"),
        seconds=20,
        memory_bytes=2 << 30,
        image=ImageLimits(max_pixels=100_000_000, thumbnail_pixels=512),
        log_level="warning",
    )
    return replace(orders, **changes)


@asynccontextmanager
async def serving(
    dsn: str,
    folder: Path,
    *,
    store: Store | None = None,
    sandbox: Workshop | None = None,
    orders: Mapping[str, Any] | None = None,
    limits: Limits = LIMITS,
    buffer_bytes: int = 32 * MIB,
    pack_bytes: int = 64 * MIB,
    lease: timedelta = LEASE,
    max_attempts: int = 5,
    retry_first: timedelta = timedelta(0),
    worker: str = "test:1",
    min_age: timedelta = timedelta(hours=1),
    clock: Clock = utc_now,
    ids: Ids = new_id,
    pool_size: int = 10,
) -> AsyncIterator[Services]:
    """Run the group commit on a migrated database; worker and sweeper are driven by the test."""
    local = LocalStore(folder)
    local.prepare()
    store = store or local
    database = await Database.open(dsn, size=pool_size)
    try:
        pack = PackWriter(store, pack_bytes=pack_bytes, new_id=ids)
        group = GroupCommit(database, database, pack, limits, clock=clock, new_id=ids)
        budget = Budget(buffer_bytes)
        receiver = Receiver(store=store, group=group, budget=budget, limits=limits, new_id=ids)
        own = Sandbox(orders_for(folder, **(orders or {})), processes=2, choices=choices_of(database))
        thumbnails = Thumbnails(PackWriter(store, pack_bytes=pack_bytes, new_id=ids))
        hashers = ThreadPoolExecutor(2)
        uploads = UploadService(database, store, clock=clock, guards=Guards())
        quotas = QuotaService(database)
        resumable = Resumable(
            store=store,
            ledger=Ledger(database, clock=clock),
            writers=Writers(database),
            group=group,
            uploads=uploads,
            budget=budget,
            limits=limits,
            clock=clock,
            new_id=ids,
        )
        running = asyncio.create_task(group.run())
        pipeline = Pipeline(
            database,
            sandbox or own,
            thumbnails,
            lease=lease,
            retry=RetryPolicy(max_attempts, retry_first, timedelta(minutes=5)),
            clock=clock,
            chance=lambda: 0.5,
            worker=worker,
            give_way=group.lull,
        )
        processing = asyncio.create_task(pipeline.run())
        yield Services(
            dsn=dsn,
            folder=folder,
            database=database,
            store=store,
            limits=limits,
            group=group,
            budget=budget,
            receiver=receiver,
            batches=BatchService(database, limits, processors=frozenset(registry.available()), clock=clock, new_id=ids),
            uploads=uploads,
            manifests=Manifests(database, limits, clock=clock, new_id=ids),
            resumable=resumable,
            single_files=SingleFiles(
                database=database,
                store=store,
                group=group,
                resumable=resumable,
                budget=budget,
                limits=limits,
                hashers=hashers,
                quotas=quotas,
                clock=clock,
                new_id=ids,
            ),
            quotas=quotas,
            pipeline=pipeline,
            thumbnails=thumbnails,
            sweeper=Sweeper(database, store, min_age=min_age, clock=clock),
        )
        await pipeline.close(0)
        await asyncio.wait_for(processing, 30)
        group.stop()
        await asyncio.wait_for(running, 30)
        receiver.close()
        await resumable.close()
        hashers.shutdown()
        await own.close()
        await thumbnails.close()
    finally:
        await database.close()


@asynccontextmanager
async def holding(dsn: str, *statements: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Run statements in a transaction of its own, and keep its locks; it is rolled back at the end."""
    connection = await asyncpg.connect(dsn)
    try:
        transaction = connection.transaction()
        await transaction.start()
        for statement in statements:
            await connection.execute(statement)
        yield connection
        await transaction.rollback()
    finally:
        await connection.close()


async def someone_waiting(connection: "asyncpg.Connection[asyncpg.Record]") -> int:
    """Return the process of a backend that waits for a lock in this database, once there is one."""
    async with asyncio.timeout(20):
        while not (waiting := await connection.fetch(WAITING)):
            await asyncio.sleep(0.01)
            await connection.execute("SELECT pg_stat_clear_snapshot()")  # new backends are not seen in a transaction
    pid: int = waiting[0]["pid"]
    return pid


class FlakyStore:
    """A store that asks `before` first, with the name of the call; what that raises is the fault."""

    def __init__(self, folder: Path, before: Callable[[str], None] | None = None) -> None:
        self._inner: Final = LocalStore(folder)
        self.before: Callable[[str], None] = before or (lambda _call: None)

    def create(self, object_id: UUID, *, big: bool = False) -> ObjectWriter:
        self.before("create")
        return FlakyWriter(self, self._inner.create(object_id, big=big))

    def reopen(self, object_id: UUID, *, at: int) -> ObjectWriter | None:
        self.before("reopen")
        inner = self._inner.reopen(object_id, at=at)
        return FlakyWriter(self, inner) if inner else None

    def open(self, object_id: UUID) -> ObjectReader:
        self.before("open")
        return self._inner.open(object_id)

    def list(self) -> Iterator[UUID]:
        self.before("list")
        return self._inner.list()

    def claim_abandoned(self, object_id: UUID) -> Claim | None:
        self.before("claim")
        return self._inner.claim_abandoned(object_id)


class FlakyWriter:
    """One object of a FlakyStore."""

    def __init__(self, store: FlakyStore, inner: ObjectWriter) -> None:
        self._store: Final = store
        self._inner: Final = inner

    @property
    def object_id(self) -> UUID:
        return self._inner.object_id

    @property
    def size_bytes(self) -> int:
        return self._inner.size_bytes

    def write(self, buffers: Sequence[bytes]) -> None:
        self._store.before("write")
        self._inner.write(buffers)

    def sync(self) -> None:
        self._store.before("sync")
        self._inner.sync()

    def close(self) -> None:
        self._inner.close()

    def discard(self) -> None:
        self._inner.discard()


def part(name: str, content: bytes) -> bytes:
    """Return one file part of a multipart body."""
    head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    return b"--" + BOUNDARY + b"\r\n" + head + content + b"\r\n"


def multipart(*contents: bytes, end: bool = True) -> bytes:
    """Return a body of files called 0, 1, 2 …; without its end it is cut behind the last part."""
    parts = b"".join(part(str(number), content) for number, content in enumerate(contents))
    return parts + (b"--" + BOUNDARY + b"--\r\n" if end else b"")


async def chunks(body: bytes, size: int = 64 * 1024) -> AsyncIterator[bytes]:
    """Yield a body piece by piece, as a socket would: others get their turn in between."""
    for start in range(0, len(body), size):
        await asyncio.sleep(0)
        yield body[start : start + size]


def pattern(size: int, seed: int = 0) -> bytes:
    """Return bytes that differ from place to place and from seed to seed."""
    block = hashlib.sha512(str(seed).encode()).digest() * 1024
    return (block * (size // len(block) + 1))[:size]


def later(seconds: float) -> datetime:
    """Return a moment that far ahead."""
    return utc_now() + timedelta(seconds=seconds)
