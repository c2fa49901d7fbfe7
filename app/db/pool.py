"""The connection pool, and what a lost database looks like to the rest of the service."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, TypeAlias

import asyncpg
import structlog

from app.domain.errors import DatabaseUnavailableError

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]

log: Final = structlog.get_logger("boatload.database")

ACQUIRE_SECONDS: Final = 10
"""How long anybody waits for a connection before the database counts as lost."""
COMMAND_SECONDS: Final = 60
"""How long one statement may take."""

_LOST: Final = (
    ConnectionError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.DiskFullError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.QueryCanceledError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.DeadlockDetectedError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
_CONNECTING: Final = (*_LOST, OSError)
# Where nothing else is possible, these make a plan so dear that it would be compiled.
_BY_INDEX: Final = """
    SET enable_seqscan = off; SET enable_sort = off; SET enable_incremental_sort = off; SET jit = off
"""
_JOINED: Final["ContextVar[tuple[Database, Connection] | None]"] = ContextVar("boatload_joined", default=None)


class Database:
    """A pool of connections to one database. Whoever opened it closes it."""

    def __init__(self, pool: "Pool") -> None:
        self._pool: Final = pool

    @classmethod
    async def open(cls, dsn: str, *, size: int) -> "Database":
        """Connect once, to be sure; more connections follow as needed, up to `size`.

        A connection that broke is replaced at its next use, so a restart of PostgreSQL needs nothing from us. Raises
        DatabaseUnavailableError.
        """
        with translated(_CONNECTING):
            pool = await asyncpg.create_pool(
                dsn,
                min_size=1,
                max_size=size,
                init=look_up_by_index,
                reset=_nothing,
                timeout=ACQUIRE_SECONDS,
                command_timeout=COMMAND_SECONDS,
                server_settings={"application_name": "boatload"},
            )
        return cls(pool)

    async def close(self) -> None:
        """Wait a moment for the connections in use, then cut them."""
        try:
            await asyncio.wait_for(self._pool.close(), ACQUIRE_SECONDS)
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> "AsyncGenerator[Connection]":
        """Lend a connection; each statement is its own transaction, unless `joined`.

        Raises DatabaseUnavailableError.
        """
        joined = _JOINED.get()
        if joined and joined[0] is self:
            yield joined[1]
            return
        with translated(_CONNECTING):
            connection = await self._pool.acquire(timeout=ACQUIRE_SECONDS)
        try:
            with translated():
                yield connection
        finally:
            with translated():
                await self._pool.release(connection)

    @asynccontextmanager
    async def transaction(self) -> "AsyncGenerator[Connection]":
        """Lend a connection in a transaction: committed on the way out, rolled back on an error.

        Raises DatabaseUnavailableError, after which it is unknown whether the transaction was committed.
        """
        async with self.connection() as connection, connection.transaction():
            yield connection

    @contextmanager
    def joined(self, connection: "Connection") -> Generator[None]:
        """Within, whatever this task asks of this database is part of the transaction that `connection` is in."""
        token = _JOINED.set((self, connection))
        try:
            yield
        finally:
            _JOINED.reset(token)


@contextmanager
def translated(errors: tuple[type[Exception], ...] = _LOST) -> Generator[None]:
    """Turn whatever means that the database is lost into DatabaseUnavailableError; logged here, once."""
    try:
        yield
    except asyncpg.DataError:
        raise  # an InterfaceError by birth, but a fault of ours
    except errors as error:
        log.warning("database lost", error=f"{type(error).__name__}: {error}")
        raise DatabaseUnavailableError from error
    except asyncpg.PostgresError as error:
        error.detail = None  # it quotes the row that was refused, and whatever secret is in it, into the log
        raise


async def look_up_by_index(connection: "Connection") -> None:
    """Keep the planner from reading a table whole, and from sorting what an index has in order.

    It does both where a table is small or its statistics are old; the plan is kept, and the table grows. Foreign keys
    are checked by such plans as well.
    """
    await connection.execute(_BY_INDEX)


async def _nothing(_connection: "Connection") -> None:
    """Reset nothing between uses: no code of ours leaves session state behind, and a reset costs a round trip."""
