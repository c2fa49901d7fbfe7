"""The connection that a migration runs on: its lock, its limits, its log; and what can go wrong, as sentences."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final

import asyncpg
import structlog

log: Final = structlog.get_logger("boatload.migrate")

VERSION_TABLE: Final = "boatload_schema_version"
"""Where the database keeps its revision. Not Alembic's usual name: an older service may keep its own history there."""
ADVISORY_LOCK: Final = 0x626F61746C6F6164
"""The key of `pg_advisory_lock`, "boatload" in ASCII: whoever holds it is migrating."""
OLDEST_POSTGRES: Final = 14
CONNECT_SECONDS: Final = 30
_RAISE: Final = "exec_stmt_raise"
"""Where in the server a notice comes from when PL/pgSQL's RAISE NOTICE makes it."""

# A role may limit statements, waits and notices; a migration takes as long as it takes and says what it did.
_SESSION: Final = """
    SET statement_timeout = 0;
    SET lock_timeout = 0;
    SET idle_in_transaction_session_timeout = 0;
    SET client_min_messages = notice;
"""


class MigrationError(Exception):
    """Base of what can go wrong here; the message is a sentence for the operator."""


class DatabaseUnreachableError(MigrationError):
    """No connection to the database, or it went away in the middle."""


class ServerTooOldError(MigrationError):
    """A PostgreSQL older than OLDEST_POSTGRES."""


class RevisionError(MigrationError):
    """A revision that nobody here knows, or that cannot be reached from where the database is."""


class RevisionFailedError(MigrationError):
    """The database refused a statement; the revision it belongs to was rolled back, those before it stand."""


@asynccontextmanager
async def session(dsn: str, *, locked: bool = False) -> "AsyncGenerator[asyncpg.Connection[asyncpg.Record]]":
    """Lend a connection whose server notices go to our log; closed on the way out.

    With `locked` it holds the advisory lock, which is given back on every path; where the process dies, PostgreSQL does
    it. Raises DatabaseUnreachableError and ServerTooOldError.
    """
    try:
        connection = await asyncpg.connect(dsn, timeout=CONNECT_SECONDS)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise DatabaseUnreachableError(
            f"The database cannot be reached: {str(error) or type(error).__name__}."
        ) from error
    try:
        major = connection.get_server_version().major
        if major < OLDEST_POSTGRES:
            raise ServerTooOldError(f"The server is PostgreSQL {major}; {OLDEST_POSTGRES} or newer is needed.")
        connection.add_log_listener(_log_notice)
        await connection.execute(_SESSION)
        if locked and not await connection.fetchval("SELECT pg_try_advisory_lock($1)", ADVISORY_LOCK):
            log.info("another process is migrating this database; waiting for it")
            await connection.execute("SELECT pg_advisory_lock($1)", ADVISORY_LOCK)
        yield connection
    finally:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            if locked and not connection.is_closed():
                await connection.execute("SELECT pg_advisory_unlock($1)", ADVISORY_LOCK)
            await connection.close(timeout=CONNECT_SECONDS)


def _log_notice(_connection: object, message: asyncpg.PostgresLogMessage) -> None:
    """Log what the server says: our own notices and all warnings; its chatter about what exists already at debug."""
    fields = message.as_dict()
    if fields.get("severity_en") == "WARNING":
        log.warning(fields["message"])
    elif fields.get("server_source_function") == _RAISE:
        log.info(fields["message"])
    else:
        log.debug(fields["message"])
