"""The schema's history: what `boatload migrate` does, and what `serve` asks before it starts.

Everything here is synchronous and runs its own event loop, so call it where none runs: from the command line, or
through `asyncio.to_thread`. A revision is named as in `migrations/versions`; `base` is the empty schema, `head` the
newest. Each revision is a transaction of its own, so a failure leaves whole revisions behind.
"""

import asyncio
import io
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import asyncpg
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationInfo
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy.exc import DBAPIError

import migrations
from app.db.migration_session import (
    ADVISORY_LOCK,
    VERSION_TABLE,
    DatabaseUnreachableError,
    MigrationError,
    RevisionError,
    RevisionFailedError,
    ServerTooOldError,
    session,
)

__all__ = [
    "DatabaseUnreachableError",
    "MigrationError",
    "Revision",
    "RevisionError",
    "RevisionFailedError",
    "Run",
    "SchemaStatus",
    "ServerTooOldError",
    "downgrade",
    "sql",
    "status",
    "upgrade",
]

log: Final = structlog.get_logger("boatload.migrate")

# Alembic keeps the command in progress in module globals, so one process runs one at a time.
_ALEMBIC: Final = threading.Lock()

_LOST: Final = (asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError)

_CREATE: Final = f"CREATE TABLE {VERSION_TABLE}"
_CREATE_UNLESS_THERE: Final = f"CREATE TABLE IF NOT EXISTS {VERSION_TABLE}"
_VERSION_COLUMNS: Final = (
    f"(version_num VARCHAR(32) NOT NULL, CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num))"
)


@dataclass(frozen=True, slots=True)
class Revision:
    """One step of the history: `summary` is its first docstring line, `applied` whether the database has it."""

    name: str
    summary: str
    applied: bool


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """Where a database stands. `pending` names what it lacks, oldest first; `revisions` is the whole history."""

    current: str | None
    head: str
    pending: tuple[str, ...]
    revisions: tuple[Revision, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One upgrade or downgrade, as `migrations/env.py` gets it; it tells `applied` of each revision done."""

    dsn: str
    done: list[str] = field(default_factory=list[str])

    def applied(self, *, step: MigrationInfo, **_rest: object) -> None:
        """Note one revision, up or down, that is about to be committed."""
        self.done.append(step.up_revision_ids[0])


def upgrade(dsn: str, revision: str = "head") -> list[str]:
    """Bring the database up to `revision` and return the names of the revisions applied, oldest first.

    Any number of processes may call it at once: a PostgreSQL advisory lock lets them through one by one, and those who
    waited find nothing left to do. A database that is at `revision` or beyond is left alone. Raises MigrationError.
    """
    _check(revision)
    run = Run(dsn)
    with _translated(dsn):
        command.upgrade(_config(run=run), revision)
    log.info("schema upgraded" if run.done else "schema was up to date", revisions=run.done)
    return run.done


def downgrade(dsn: str, revision: str) -> list[str]:
    """Take the database down to `revision` (`base`: all the way); return the names of those undone, newest first.

    Locked like `upgrade`. What a downgrade keeps is said by each revision; no rows are lost by any. Raises
    MigrationError.
    """
    _check(revision)
    run = Run(dsn)
    with _translated(dsn):
        command.downgrade(_config(run=run), revision)
    log.info("schema downgraded", revisions=run.done)
    return run.done


def status(dsn: str) -> SchemaStatus:
    """Say where the database stands; changes nothing and waits for no lock. Raises MigrationError."""
    current = asyncio.run(_current(dsn))
    history = _history()
    names = [name for name, _ in history]
    if current is not None and current not in names:
        raise RevisionError(
            f"The database is at revision '{current}', which this release does not know: a newer release migrated it."
            " Run that one, or a newer one."
        )
    reached = 0 if current is None else names.index(current) + 1
    return SchemaStatus(
        current=current,
        head=names[-1],
        pending=tuple(names[reached:]),
        revisions=tuple(
            Revision(name, summary, applied=place < reached) for place, (name, summary) in enumerate(history)
        ),
    )


def sql(direction: Literal["up", "down"] = "up", revisions: str = "base:head") -> str:
    """Return the SQL of an upgrade or a downgrade, each revision in its transaction; no database is asked.

    `revisions` is the name of one revision, or two joined by a colon with the older first: `a:b` is what lies behind
    `a` up to and with `b`, so `base:head` is everything. Raises RevisionError.
    """
    older, newer = _range(revisions)
    output = io.StringIO()
    config = _config(output=output)
    with _ALEMBIC:
        if direction == "up":
            command.upgrade(config, f"{older}:{newer}", sql=True)
        else:
            command.downgrade(config, f"{newer}:{older}", sql=True)
    statements = output.getvalue().replace(_CREATE, _CREATE_UNLESS_THERE).strip()
    if _CREATE_UNLESS_THERE not in statements:  # a revision may be run on its own, over what another service made
        statements = f"{_CREATE_UNLESS_THERE} {_VERSION_COLUMNS};\n\n{statements}"
    return (
        f"-- Boatload, {direction} {older}:{newer}. Run it with: psql -v ON_ERROR_STOP=1\n"
        f"SELECT pg_advisory_lock({ADVISORY_LOCK});\n\n{statements}\n\n"
        f"SELECT pg_advisory_unlock({ADVISORY_LOCK});\n"
    )


async def _current(dsn: str) -> str | None:
    async with session(dsn) as connection:
        if await connection.fetchval("SELECT to_regclass($1)", VERSION_TABLE) is None:
            return None
        current: str | None = await connection.fetchval(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608
        return current


def _config(**attributes: object) -> Config:
    """Return Alembic's configuration, made here so that no file has to be found. `output` takes what `sql` prints."""
    output = attributes.get("output")
    config = Config(output_buffer=output if isinstance(output, io.StringIO) else None, attributes=attributes)
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    return config


def _history() -> list[tuple[str, str]]:
    """Return name and summary of each revision, oldest first."""
    scripts = ScriptDirectory.from_config(_config()).walk_revisions()
    return [(script.revision, script.doc) for script in scripts][::-1]


def _check(revision: str) -> None:
    """Refuse what is neither a whole name nor `base`, `head`, `+N` or `-N`: Alembic would also take beginnings."""
    names = [name for name, _ in _history()]
    if revision not in {"base", "head", *names} and not re.fullmatch(r"[+-][0-9]+", revision):
        raise RevisionError(f"There is no revision '{revision}'. There are: base, {', '.join(names)}.")


def _range(revisions: str) -> tuple[str, str]:
    """Return the two ends of `name` or `older:newer`. Raises RevisionError."""
    names = ["base", *(name for name, _ in _history())]
    *start, newer = revisions.replace("head", names[-1]).split(":")
    if len(start) > 1 or not {*start, newer} <= {*names}:
        raise RevisionError(f"'{revisions}' is no range of revisions. There are: {', '.join(names)}.")
    older = start[0] if start else names[max(names.index(newer) - 1, 0)]
    if names.index(older) >= names.index(newer):
        raise RevisionError(f"'{revisions}' is an empty range. Name the older revision first.")
    return older, newer


@contextmanager
def _translated(dsn: str) -> Generator[None]:
    """Run one Alembic command, and turn what it raises into MigrationError."""
    try:
        with _ALEMBIC:
            yield
    except CommandError as error:
        status(dsn)  # where the database is ahead of this release, this says it better
        raise RevisionError(f"There is no way to that revision: {error}.") from error
    except DBAPIError as error:
        cause = error.driver_exception
        if isinstance(cause, asyncpg.PostgresError) and not isinstance(cause, _LOST):
            raise RevisionFailedError(f"The database refused a revision, which was rolled back: {cause}.") from error
        raise DatabaseUnreachableError(f"The database went away in the middle: {cause}.") from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise DatabaseUnreachableError(f"The database went away in the middle: {error}.") from error
