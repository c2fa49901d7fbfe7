"""The only room that knows PgQueuer. A job carries ids of uploads; PostgreSQL holds it in a schema of its own.

The queue is a messenger, not the truth: it may lose everything, because the sweep enqueues again whatever the rows of
`uploads` say is still to be done.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, LiteralString
from uuid import UUID

import asyncpg
import structlog
from pgqueuer import AsyncpgDriver, Job, Queries, QueueManager, RetryRequested
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment, QueryQueueBuilder, QuerySchedulerBuilder
from pgqueuer.domain.settings import DBSettings
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from app.db.pool import look_up_by_index
from app.domain.errors import BoatloadError

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
_CONNECT_SECONDS: Final = 5.0
_COMMAND_SECONDS: Final = 10.0
"""A connection that is silent for longer is lost, whatever its socket says."""
_RECONNECT_SECONDS: Final = 0.5
_PUT_BACK: Final = timedelta(seconds=1)
_LOG_KEPT: Final = timedelta(days=1)
_LOG_CHUNK: Final = 10_000

TRIM_LOG: Final[LiteralString] = """
    WITH old AS (
        SELECT id FROM boatload_queue.pgqueuer_log WHERE created < now() - $1::interval ORDER BY created LIMIT $2
        FOR UPDATE SKIP LOCKED
    )
    DELETE FROM boatload_queue.pgqueuer_log l USING old WHERE l.id = old.id
    RETURNING l.id
"""
"""PgQueuer writes three rows for each job, and keeps them for ever."""


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


def enqueue_sql() -> str:
    """Return the statement that adds jobs, as the installed PgQueuer has it; for the migration."""
    return QueryQueueBuilder(_SETTINGS).build_enqueue_query()


def jobs_of(upload_ids: Sequence[UUID], *, job_uploads: int = JOB_UPLOADS) -> list[bytes]:
    """Return the payloads of the jobs that uploads make, up to `job_uploads` in each; see `Arrivals.keep`."""
    slices = [upload_ids[start : start + job_uploads] for start in range(0, len(upload_ids), job_uploads)]
    return [b"".join([upload_id.bytes for upload_id in part]) for part in slices]


def upload_ids_in(payload: bytes) -> list[UUID]:
    """Return the uploads that a job is about."""
    return [UUID(bytes=payload[start : start + _ID_BYTES]) for start in range(0, len(payload), _ID_BYTES)]


async def enqueue(
    connection: "Connection", upload_ids: Sequence[UUID], *, first: bool = False, job_uploads: int = JOB_UPLOADS
) -> None:
    """Add jobs in the caller's transaction: they exist exactly if it commits, and wake a worker when it does.

    They are taken in the order they came; `first` goes before all that are not. A job carries up to `job_uploads`.
    """
    payloads: list[bytes | None] = [*jobs_of(upload_ids, job_uploads=job_uploads)]
    if payloads:
        await _queries(connection).enqueue([_ENTRYPOINT] * len(payloads), payloads, [int(first)] * len(payloads))


async def trim_log(connection: "Connection") -> int:
    """Remove a chunk of what PgQueuer noted more than a day ago, and return how many rows that was."""
    return len(await connection.fetch(TRIM_LOG, _LOG_KEPT, _LOG_CHUNK))


async def consume(dsn: str, handle: Callable[[list[UUID]], Awaitable[None]], stop: asyncio.Event) -> None:
    """Give each job's uploads to `handle` until `stop` is set, then wait until what was begun has ended.

    Runs on a connection of its own, and begins again at once whenever that is lost: what was begun goes on meanwhile,
    and its job may come again, so `handle` must be idempotent. A job that raises BoatloadError, which may pass, comes
    again; one that raises anything else is logged with its uploads and forgotten here: the sweep brings those back.
    """
    begun: set[asyncio.Task[None]] = set()
    lost = False
    while not stop.is_set():
        try:
            connection = await asyncpg.connect(
                dsn,
                timeout=_CONNECT_SECONDS,
                command_timeout=_COMMAND_SECONDS,
                server_settings={"application_name": "boatload-worker"},
            )
            try:
                await look_up_by_index(connection)
                log.info("queue is back" if lost else "queue connected")
                lost = False
                await _consume_on(connection, handle, stop, begun)
            finally:
                await connection.close(timeout=2)
        except Exception as error:  # noqa: BLE001 - the loop must survive whatever a lost connection raises
            if not lost:
                log.warning("queue lost, will connect again", error=f"{type(error).__name__}: {error}")
            lost = True
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _RECONNECT_SECONDS)
    if begun:
        await asyncio.wait(begun)


async def _consume_on(
    connection: "asyncpg.Connection[asyncpg.Record]",
    handle: Callable[[list[UUID]], Awaitable[None]],
    stop: asyncio.Event,
    begun: "set[asyncio.Task[None]]",
) -> None:
    """Take jobs until `stop`, or until the connection is lost, whichever raises or not."""
    manager = QueueManager(_queries(connection))
    gone = asyncio.Event()
    connection.add_termination_listener(lambda _connection: gone.set())

    @manager.entrypoint(_ENTRYPOINT, accepts_context=False)
    async def run(job: Job) -> None:  # pyright: ignore[reportUnusedFunction] - registered by its decorator
        if stop.is_set():
            raise RetryRequested
        upload_ids = upload_ids_in(job.payload or b"")
        task = asyncio.ensure_future(handle(upload_ids))
        begun.add(task)
        task.add_done_callback(begun.discard)
        await _first(task, asyncio.ensure_future(gone.wait()), keep=task)
        if not task.done():  # it goes on; nobody can be told of its end on this connection
            task.add_done_callback(_note_failure)
            return
        try:
            task.result()
        except BoatloadError as error:
            log.warning("job put back", job_id=job.id, uploads=len(upload_ids), code=error.code)
            raise RetryRequested(_PUT_BACK) from error
        except Exception as error:
            ids = [str(upload_id) for upload_id in upload_ids]
            log.exception("job failed, the sweep will bring it back", job_id=job.id, upload_ids=ids, exc_info=error)
            raise

    async def relay() -> None:
        await _first(asyncio.ensure_future(stop.wait()), asyncio.ensure_future(gone.wait()))
        manager.shutdown.set()

    relaying = asyncio.create_task(relay())
    try:
        await manager.run(
            dequeue_timeout=_DEQUEUE,
            batch_size=_JOBS_AT_ONCE // 2,
            max_concurrent_tasks=_JOBS_AT_ONCE,
            shutdown_on_listener_failure=True,
            heartbeat_timeout=_HEARTBEAT,
            log_aggregation_interval=timedelta(0),  # nobody reads its statistics
        )
    finally:
        relaying.cancel()
    if gone.is_set():
        raise ConnectionError("the connection was closed")


async def _first(*waiting: "asyncio.Future[Any]", keep: "asyncio.Future[Any] | None" = None) -> None:
    """Return when one of them is done; the others are cancelled, but for the one to `keep`."""
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            if one is not keep:
                one.cancel()


def _note_failure(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()):
        log.warning("job failed, the sweep will bring it back", error=f"{type(error).__name__}: {error}")


def _queries(connection: "Connection") -> Queries:
    return Queries(
        AsyncpgDriver(connection),  # type: ignore[arg-type]  # a pool's proxy does all that a connection does
        qbe=QueryBuilderEnvironment(_SETTINGS),
        qbq=QueryQueueBuilder(_SETTINGS),
        qbs=QuerySchedulerBuilder(_SETTINGS),
    )
