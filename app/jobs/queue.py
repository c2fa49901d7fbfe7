"""The only room that knows PgQueuer. A job carries ids of uploads; PostgreSQL holds it in a schema of its own.

The queue is a messenger, not the truth: it may lose everything, because the sweep enqueues again whatever the rows of
`uploads` say is still to be done.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

import asyncpg
import structlog
from pgqueuer import AsyncpgDriver, Job, Queries, QueueManager
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment, QueryQueueBuilder, QuerySchedulerBuilder
from pgqueuer.domain.settings import DBSettings
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

if TYPE_CHECKING:
    from app.db.pool import Connection

log: Final = structlog.get_logger("boatload.queue")

JOB_UPLOADS: Final = 100
"""Most uploads in one job. Its payload is their ids, one behind the other."""
_ID_BYTES: Final = 16
_ENTRYPOINT: Final = "process_uploads"
_JOBS_AT_ONCE: Final = 8
_HEARTBEAT: Final = timedelta(seconds=6)
_DEQUEUE: Final = timedelta(seconds=3)
"""Both small: a killed worker's job comes back after their sum."""
_RECONNECT_SECONDS: Final = 1.0


class _Names(DBSettings):
    """PgQueuer's names for its tables: its defaults, in a schema of our own, and never those of the environment."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        *_others: PydanticBaseSettingsSource,
        **_more: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


_SETTINGS: Final = _Names(db_schema="boatload_queue")


def install_sql() -> str:
    """Return the DDL of the queue, as the installed PgQueuer wants it; for the migration."""
    return QueryBuilderEnvironment(_SETTINGS).build_install_query()


def upload_ids_in(payload: bytes) -> list[UUID]:
    """Return the uploads that a job is about."""
    return [UUID(bytes=payload[start : start + _ID_BYTES]) for start in range(0, len(payload), _ID_BYTES)]


async def enqueue(connection: "Connection", upload_ids: Sequence[UUID]) -> None:
    """Add jobs in the caller's transaction: they exist exactly if it commits, and wake a worker when it does."""
    slices = [upload_ids[start : start + JOB_UPLOADS] for start in range(0, len(upload_ids), JOB_UPLOADS)]
    payloads: list[bytes | None] = [b"".join([upload_id.bytes for upload_id in part]) for part in slices]
    if payloads:
        await _queries(connection).enqueue([_ENTRYPOINT] * len(payloads), payloads, [0] * len(payloads))


async def consume(dsn: str, handle: Callable[[list[UUID]], Awaitable[None]], stop: asyncio.Event) -> None:
    """Give each job's uploads to `handle` until `stop` is set, then let what was begun end.

    Runs on a connection of its own, and begins again whenever that is lost. `handle` must be idempotent: a job may come
    twice. One that raises is logged and forgotten here; the sweep brings its uploads back.
    """
    while not stop.is_set():
        try:
            connection = await asyncpg.connect(dsn, server_settings={"application_name": "boatload-worker"})
            try:
                await _consume_on(connection, handle, stop)
            finally:
                await connection.close(timeout=2)
        except Exception as error:  # noqa: BLE001 - the loop must survive whatever a lost connection raises
            log.warning("queue lost, will connect again", error=f"{type(error).__name__}: {error}")
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _RECONNECT_SECONDS)


async def _consume_on(
    connection: "asyncpg.Connection[asyncpg.Record]",
    handle: Callable[[list[UUID]], Awaitable[None]],
    stop: asyncio.Event,
) -> None:
    manager = QueueManager(_queries(connection))

    @manager.entrypoint(_ENTRYPOINT, accepts_context=False)
    async def run(job: Job) -> None:  # pyright: ignore[reportUnusedFunction] - registered by its decorator
        await handle(upload_ids_in(job.payload or b""))

    async def relay() -> None:
        await stop.wait()
        manager.shutdown.set()

    relaying = asyncio.create_task(relay())
    try:
        await manager.run(
            dequeue_timeout=_DEQUEUE,
            batch_size=_JOBS_AT_ONCE // 2,
            max_concurrent_tasks=_JOBS_AT_ONCE,
            shutdown_on_listener_failure=True,
            heartbeat_timeout=_HEARTBEAT,
        )
    finally:
        relaying.cancel()


def _queries(connection: "Connection") -> Queries:
    return Queries(
        AsyncpgDriver(connection),  # type: ignore[arg-type]  # a pool's proxy does all that a connection does
        qbe=QueryBuilderEnvironment(_SETTINGS),
        qbq=QueryQueueBuilder(_SETTINGS),
        qbs=QuerySchedulerBuilder(_SETTINGS),
    )
