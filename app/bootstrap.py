"""The composition root: settings in, wired services out."""

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from app.auth.access import Access
from app.auth.batch_tokens import BatchTokens
from app.auth.issuers import Issuers
from app.db.listen import Listener
from app.db.pool import Database
from app.domain.guards import Guards
from app.domain.ids import new_id, utc_now
from app.domain.limits import ImageLimits, Limits
from app.domain.quota import Quota
from app.domain.retry import RetryPolicy
from app.ingest.batches import BatchService
from app.ingest.budget import Budget
from app.ingest.group import GroupCommit
from app.ingest.idempotency import Idempotency
from app.ingest.ledger import Ledger
from app.ingest.manifest import Manifests
from app.ingest.quotas import QuotaService
from app.ingest.receive import Receiver
from app.ingest.resumable import Resumable
from app.ingest.single import SingleFiles
from app.ingest.tus import TusUploads
from app.ingest.uploads import UploadService
from app.ingest.writers import Writers
from app.jobs import queue
from app.processing import children, registry
from app.processing.choices import choices_of
from app.processing.pipeline import Pipeline
from app.processing.protocol import Orders
from app.processing.sandbox import Sandbox
from app.processing.sweeps import Sweeper
from app.processing.thumbnails import Thumbnails
from app.progress.feed import Feed
from app.progress.reader import BatchReader
from app.repositories.batches import CHANNEL
from app.repositories.unit_of_work import reading
from app.settings import Settings
from app.storage.base import Store
from app.storage.local import LocalStore
from app.storage.pack import PackWriter
from app.webhooks.deliverer import Deliverer
from app.webhooks.policy import DeliveryPolicy
from app.webhooks.sender import Resolver, Sender, trusted
from app.webhooks.service import WebhookService

log: Final = structlog.get_logger("boatload")

_END_SECONDS: Final = 10
_HASHERS: Final = 2


@dataclass(frozen=True, slots=True)
class Services:
    """All that a request may need. Lives as long as the process serves."""

    database: Database
    store: Store
    limits: Limits
    access: Access
    batch_tokens: BatchTokens
    receiver: Receiver
    batches: BatchService
    uploads: UploadService
    webhooks: WebhookService
    reader: BatchReader
    feed: Feed
    manifests: Manifests
    resumable: Resumable
    single_files: SingleFiles
    quotas: QuotaService
    tus: TusUploads
    idempotency: Idempotency
    cursor_key: bytes
    background: "tuple[asyncio.Task[None], ...]"
    """The loops that must be running for the service to be ready."""

    @property
    def alive(self) -> bool:
        """Whether every background loop still runs."""
        return not any(task.done() for task in self.background)

    async def check(self) -> None:
        """Return if the database answers. Raises DatabaseUnavailableError."""
        async with reading(self.database) as uow:
            await uow.service_keys.get("cursor")


@asynccontextmanager
async def running(settings: Settings, dsn: str) -> AsyncIterator[Services]:
    """Start everything on a migrated database, and on the way out end it in the right order.

    Work that was begun ends first, then what was received is committed, then the connections go. Raises
    DatabaseUnavailableError or StorageUnavailableError where it cannot start.
    """
    limits = Limits(
        max_file_bytes=settings.max_file_bytes,
        max_request_bytes=settings.max_request_bytes,
        max_parts=settings.max_parts,
        max_files_per_batch=settings.max_files_per_batch,
        pack_file_bytes=settings.pack_file_bytes,
        batch_lifetime=timedelta(seconds=settings.batch_expires_seconds),
        allow_private_webhooks=settings.webhook_allow_private,
    )
    store = LocalStore(settings.objects_dir)
    await asyncio.to_thread(store.prepare)
    async with AsyncExitStack() as stack:
        database = await Database.open(dsn, size=settings.database_pool_size)
        stack.push_async_callback(database.close)
        async with reading(database) as uow:
            cursor_key = await uow.service_keys.get("cursor")
            token_key = await uow.service_keys.get("batch_tokens")
        quotas = QuotaService(database)
        await quotas.begin(
            Quota(settings.quota_bytes, settings.quota_files, settings.quota_open_batches, settings.quota_open_uploads)
        )

        # Its own connections: a new one takes 15 ms longer over its first group.
        committer, lookups = await Database.open(dsn, size=1), await Database.open(dsn, size=1)
        stack.push_async_callback(committer.close)
        stack.push_async_callback(lookups.close)
        pack = PackWriter(store, pack_bytes=settings.pack_bytes, new_id=new_id)
        group = GroupCommit(committer, lookups, pack, limits, clock=utc_now, new_id=new_id)
        committing = _start("group commit", group.run())
        stack.push_async_callback(_ended, committing)
        stack.callback(group.stop)
        background = [committing]
        if settings.worker:
            background += _start_worker(stack, settings, dsn, database=database, store=store, give_way=group.lull)

        batch_tokens = BatchTokens(token_key, clock=utc_now, new_id=new_id)
        access = await _start_access(stack, settings, database, batch_tokens, background)
        reader = BatchReader(database)
        feed = Feed(database, reader, heartbeat_seconds=settings.heartbeat_seconds)
        background += _start_feed(stack, dsn, feed)

        budget = Budget(settings.buffer_bytes)
        hashers = stack.enter_context(ThreadPoolExecutor(_HASHERS, thread_name_prefix="hash-single"))
        receiver = Receiver(store=store, group=group, budget=budget, limits=limits, new_id=new_id)
        stack.callback(receiver.close)
        uploads = UploadService(database, store, clock=utc_now, guards=guards_of(settings))
        resumable = Resumable(
            store=store,
            ledger=Ledger(database, clock=utc_now),
            writers=Writers(database),
            group=group,
            uploads=uploads,
            budget=budget,
            limits=limits,
            clock=utc_now,
            new_id=new_id,
        )
        stack.push_async_callback(resumable.close)
        idempotency = Idempotency(
            database, lifetime=timedelta(seconds=settings.idempotency_seconds), clock=utc_now, new_id=new_id
        )
        manifests = Manifests(database, limits, clock=utc_now, new_id=new_id)
        yield Services(
            database=database,
            store=store,
            limits=limits,
            access=access,
            batch_tokens=batch_tokens,
            receiver=receiver,
            batches=BatchService(
                database, limits, processors=registry.require(settings.processors), clock=utc_now, new_id=new_id
            ),
            uploads=uploads,
            manifests=manifests,
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
                clock=utc_now,
                new_id=new_id,
            ),
            quotas=quotas,
            webhooks=WebhookService(
                database, allow_private=settings.webhook_allow_private, clock=utc_now, new_id=new_id
            ),
            reader=reader,
            feed=feed,
            tus=TusUploads(manifests, resumable, idempotency, limits, clock=utc_now),
            idempotency=idempotency,
            cursor_key=cursor_key,
            background=tuple(background),
        )


async def _start_access(
    stack: AsyncExitStack,
    settings: Settings,
    database: Database,
    tokens: BatchTokens,
    background: "list[asyncio.Task[None]]",
) -> Access:
    access = Access(
        database,
        tokens,
        Issuers(settings.jwt_issuers),
        anonymous=settings.allow_anonymous,
        until_configured=settings.on_loopback and not settings.jwt_issuers,
        clock=utc_now,
    )
    await access.look()
    stop = asyncio.Event()
    background.append(_start("access", access.run(stop)))
    stack.push_async_callback(_ended, background[-1])
    stack.callback(stop.set)
    return access


def _start_feed(stack: AsyncExitStack, dsn: str, feed: Feed) -> "list[asyncio.Task[None]]":
    stop = asyncio.Event()
    listener = Listener(dsn, CHANNEL, hear=feed.hear, missed=feed.missed)
    tasks = [_start("listener", listener.run(stop)), _start("feed", feed.run(stop))]
    for task in tasks:
        stack.push_async_callback(_ended, task)
    stack.callback(stop.set)
    stack.callback(feed.close)
    return tasks


def check_processors(settings: Settings) -> None:
    """Return if all processors that are chosen or installed can run. Blocks. Raises ProcessorsError."""
    registry.require(settings.processors)
    if registry.has_plug_ins():
        children.check(orders_of(settings))


def check_store(settings: Settings) -> None:
    """Return if the store can be used. Blocks. Raises StorageUnavailableError; the log says what is wrong with it."""
    LocalStore(settings.objects_dir).prepare()


def orders_of(settings: Settings) -> Orders:
    """Return what the children that look into files are told."""
    return Orders(
        folder=str(settings.objects_dir),
        processors=settings.processors,
        seconds=settings.processor_seconds,
        memory_bytes=settings.processor_memory_bytes,
        image=ImageLimits(settings.image_max_pixels, settings.thumbnail_pixels),
        guards=guards_of(settings),
        log_level=settings.log_level,
    )


def guards_of(settings: Settings) -> Guards:
    """Return what every file must pass."""
    return Guards(settings.clamd, settings.allowed_types)


def _cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@asynccontextmanager
async def working(settings: Settings, dsn: str) -> AsyncIterator["tuple[asyncio.Task[None], ...]"]:
    """Start the worker side alone on a migrated database; lend its loops, which end only by dying or on the way out.

    Raises DatabaseUnavailableError or StorageUnavailableError where it cannot start.
    """
    store = LocalStore(settings.objects_dir)
    await asyncio.to_thread(store.prepare)
    async with AsyncExitStack() as stack:
        database = await Database.open(dsn, size=settings.database_pool_size)
        stack.push_async_callback(database.close)
        yield tuple(_start_worker(stack, settings, dsn, database=database, store=store, give_way=_nobody_sends))


def worker_name() -> str:
    """Return what this process is called where it works: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _start_worker(
    stack: AsyncExitStack,
    settings: Settings,
    dsn: str,
    *,
    database: Database,
    store: Store,
    give_way: Callable[[], Awaitable[None]],
) -> "list[asyncio.Task[None]]":
    """Start the worker side; `stack` ends it: no job is begun any more, what was begun ends or is given back."""
    sandbox = Sandbox(
        orders_of(settings),
        processes=settings.processor_processes or _cpus(),
        choices=choices_of(database),
    )
    stack.push_async_callback(sandbox.close)
    thumbnails = Thumbnails(PackWriter(store, pack_bytes=settings.pack_bytes, new_id=new_id))
    stack.push_async_callback(thumbnails.close)
    pipeline = Pipeline(
        database,
        sandbox,
        thumbnails,
        lease=timedelta(seconds=settings.lease_seconds),
        retry=RetryPolicy(
            max_attempts=settings.max_attempts,
            first=timedelta(seconds=settings.retry_first_seconds),
            longest=timedelta(seconds=settings.retry_longest_seconds),
        ),
        clock=utc_now,
        chance=random.random,
        worker=worker_name(),
        give_way=give_way,
    )
    min_age = timedelta(seconds=settings.sweep_interval_seconds)
    sweeper = Sweeper(database, store, min_age=min_age, clock=utc_now)
    webhooks = _deliverer(stack, settings, database)
    stop = asyncio.Event()
    tasks = [
        _start("pipeline", pipeline.run()),
        _start("worker", queue.consume(dsn, pipeline.process, stop)),
        _start("sweeper", sweeper.run(interval_seconds=settings.sweep_interval_seconds, stop=stop)),
        _start("webhooks", webhooks.run(sweep_seconds=settings.sweep_interval_seconds, stop=stop)),
    ]
    for task in tasks:
        stack.push_async_callback(_ended, task)
    stack.push_async_callback(pipeline.close, settings.shutdown_seconds)
    stack.callback(stop.set)
    return tasks


def _deliverer(stack: AsyncExitStack, settings: Settings, database: Database) -> Deliverer:
    resolver = Resolver()
    stack.callback(resolver.close)
    sender = Sender(
        resolver,
        seconds=settings.webhook_timeout_seconds,
        allow_private=settings.webhook_allow_private,
        tls=trusted(),
    )
    policy = DeliveryPolicy(timedelta(seconds=settings.webhook_retry_seconds))
    return Deliverer(database, sender, policy, keep=timedelta(seconds=settings.webhook_keep_seconds), clock=utc_now)


async def _nobody_sends() -> None:
    """Give way to nobody: no files are received in this process."""


def _start(name: str, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
    """Run a loop in the background; should it die, the log says so and readiness fails."""
    task = asyncio.create_task(work, name=name)

    def report(done: "asyncio.Task[None]") -> None:
        if not done.cancelled() and (error := done.exception()):
            log.critical("background loop died", loop=name, exc_info=error)

    task.add_done_callback(report)
    return task


async def _ended(task: "asyncio.Task[None]") -> None:
    """Wait until a loop that was told to stop has ended; one that hangs on a lost database is cut."""
    _, hanging = await asyncio.wait([task], timeout=_END_SECONDS)
    for late in hanging:
        log.warning("background loop cut", loop=late.get_name())
        late.cancel()
    await asyncio.wait([task])
