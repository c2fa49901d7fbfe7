"""What lies where under a data directory, and how the server that runs on it is reached."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

PORT: Final = 5432
"""Only part of the socket's name: nothing listens on TCP."""

ROLE: Final = "boatload"
DATABASE: Final = "boatload"

_SOCKET_PATH_BYTES: Final = 103 if sys.platform == "darwin" else 107
"""What `sockaddr_un.sun_path` holds beside its closing NUL."""


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot do what was asked; the message is for the operator: what happened, what to do."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The names under one data directory, which must be an absolute path. Pure: nothing here touches the disk."""

    data_dir: Path

    @property
    def pgdata(self) -> Path:
        """The database cluster; mode 0700, owned by the server's user."""
        return self.data_dir / "postgres"

    @property
    def unfinished_prefix(self) -> str:
        """How the name of a cluster begins that `initdb` has not finished."""
        return "postgres.new-"

    @property
    def run_dir(self) -> Path:
        """Where the socket is; mode 0700 and owned by the server's user: this is what guards the server."""
        return self.data_dir / "run"

    @property
    def socket(self) -> Path:
        """The socket clients connect to."""
        return self.run_dir / f".s.PGSQL.{PORT}"

    @property
    def socket_lock(self) -> Path:
        """PostgreSQL's own mark of who holds the socket."""
        return self.run_dir / f".s.PGSQL.{PORT}.lock"

    @property
    def pid_file(self) -> Path:
        """PostgreSQL's own mark of who runs on the cluster, and of how far its start has come."""
        return self.pgdata / "postmaster.pid"

    @property
    def log_dir(self) -> Path:
        """PostgreSQL's log: one file for each day of the week, each overwritten a week later."""
        return self.pgdata / "log"

    @property
    def lock_file(self) -> Path:
        """Locked by the owner of the data directory for as long as it lives; holds its process id."""
        return self.data_dir / "boatload.lock"

    @property
    def programs_dir(self) -> Path:
        """A copy of PostgreSQL's programs, only where the server's user cannot reach the installed ones."""
        return self.data_dir / "programs"

    def dsn(self, database: str = DATABASE) -> str:
        """Return the URL of `database`, for asyncpg and for SQLAlchemy's asyncpg dialect.

        The port is stated because a client would else take it from PGPORT.
        """
        return f"postgresql://{ROLE}@/{database}?host={quote(str(self.run_dir), safe='/')}&port={PORT}"

    def check(self) -> None:
        """Raise EmbeddedError when no server could have its socket here, because of the name of the directory."""
        size_bytes = len(os.fsencode(self.socket))
        if size_bytes > _SOCKET_PATH_BYTES:
            raise EmbeddedError(
                f"the data directory {self.data_dir} is {size_bytes - _SOCKET_PATH_BYTES} bytes too long for a socket"
                " inside it: choose a shorter --data-dir, or set BOATLOAD_DATABASE_URL"
            )
        # Commas and quotes are syntax in unix_socket_directories and in the hosts of a URL.
        if any(character in ',"' or not character.isprintable() for character in str(self.data_dir)):
            raise EmbeddedError(
                f"the name of the data directory {str(self.data_dir)!r} holds a comma, a quote or a control character,"
                " which a socket address cannot: choose another --data-dir, or set BOATLOAD_DATABASE_URL"
            )
