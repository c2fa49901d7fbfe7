"""The files of a database cluster: made whole or not at all, and never in anybody else's place."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
import structlog

from app.db.postgres.account import Account, account_for
from app.db.postgres.layout import DATABASE, ROLE, EmbeddedError, Layout
from app.db.postgres.programs import Programs, find_programs
from app.db.postgres.reports import last_reason
from app.db.postgres.session import fetch_value

_FIRST_WITH_BUILTIN_LOCALE: Final = 17

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that is ready to be served: its place, who serves it, with what, and what its processes are called.

    No other cluster of this machine has the same `name`: it is how its processes are told from others'.
    """

    name: str
    layout: Layout
    account: Account
    programs: Programs


def prepare(layout: Layout, version: str) -> Cluster:
    """Find the cluster under `layout`, or make one of PostgreSQL `version`; an existing one keeps its own version.

    The caller holds the owner's lock. Changes the mode or owner of nothing but what it makes and the run directory.
    Raises EmbeddedError when the cluster cannot be served from here, OSError when the disk refuses.
    """
    account = account_for(layout.pgdata)
    if account.is_other and (closed := account.first_closed(layout.data_dir)):
        raise EmbeddedError(
            f"PostgreSQL refuses to run as root, and the user {account.name}, which runs it, may not enter {closed}:"
            " choose another --data-dir, such as /var/lib/boatload, or set BOATLOAD_DATABASE_URL"
        )
    existing = layout.pgdata.exists()
    programs = find_programs(_version_of(layout) if existing else version, account, layout)
    _remove_unfinished(layout)
    if not existing:
        _initialise(layout, account, programs)
    _make_run_dir(layout, account)
    status = layout.pgdata.stat()
    return Cluster(f"boatload-{status.st_dev:x}-{status.st_ino:x}", layout, account, programs)


def ensure_database(layout: Layout) -> None:
    """Create our database on the running server where it is missing.

    Raises OSError when the server does not answer, asyncpg.PostgresError when it refuses.
    """
    maintenance = layout.dsn("postgres")
    if fetch_value(maintenance, "SELECT 1 FROM pg_catalog.pg_database WHERE datname = 'boatload'") is None:
        try:
            fetch_value(maintenance, "CREATE DATABASE boatload")
        except asyncpg.DuplicateDatabaseError:
            return
        _log.info("postgres_database_made", database=DATABASE)


def _version_of(layout: Layout) -> str:
    try:
        return (layout.pgdata / "PG_VERSION").read_text("utf-8").strip()
    except FileNotFoundError:
        raise EmbeddedError(
            f"{layout.pgdata} exists but holds no PostgreSQL database: move it away, or choose another --data-dir"
        ) from None


def _remove_unfinished(layout: Layout) -> None:
    # Errors are let be: an initdb whose starter was killed may still be writing there. The next start removes the rest.
    for path in layout.data_dir.glob(layout.unfinished_prefix + "*"):
        shutil.rmtree(path, ignore_errors=True)


def _initialise(layout: Layout, account: Account, programs: Programs) -> None:
    """Make the cluster under a name of its own and, once it is whole and on disk, give it the real one."""
    _log.info("postgres_initialising", path=str(layout.pgdata), version=programs.version)
    aside = Path(tempfile.mkdtemp(prefix=layout.unfinished_prefix, dir=layout.data_dir))  # 0700
    _give(aside, account)
    options = [f"--username={ROLE}", "--encoding=UTF8", "--locale=C", "--data-checksums", "--no-instructions"]
    # Trust, because the socket is in a directory that only the server's user (and root) can enter.
    options += ["--auth-local=trust", "--auth-host=reject"]
    if int(programs.version) >= _FIRST_WITH_BUILTIN_LOCALE:
        # Sorts by code point as C does, the same on every system, and knows the case of all letters beside.
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    code, said = account.run([programs.initdb, f"--pgdata={aside}", *options])
    if code != 0:
        shutil.rmtree(aside, ignore_errors=True)
        reason = last_reason(said) or said or f"exit code {code}"
        raise EmbeddedError(
            f"PostgreSQL could not make a database in {layout.data_dir} ({reason}):"
            " put that right, or set BOATLOAD_DATABASE_URL"
        )
    aside.rename(layout.pgdata)
    _sync_directory(layout.data_dir)


def _make_run_dir(layout: Layout, account: Account) -> None:
    layout.run_dir.mkdir(mode=0o700, exist_ok=True)
    if layout.run_dir.is_symlink():
        raise EmbeddedError(f"{layout.run_dir} is a symbolic link, which is not safe to open to a server: remove it")
    layout.run_dir.chmod(0o700)
    _give(layout.run_dir, account)


def _give(path: Path, account: Account) -> None:
    if account.is_other:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
