"""The embedded PostgreSQL: a server of our own under the data directory, for as long as one process owns it.

The owner holds a lock on the data directory, starts the server as its child, starts it again when it dies, and stops it
when it leaves. An owner that is killed leaves the server running without one; the next owner stops that server first.
"""

import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self

import asyncpg
import structlog

from app.db.postgres.cluster import ensure_database, prepare
from app.db.postgres.layout import EmbeddedError, Layout
from app.db.postgres.lock import OwnerLock
from app.db.postgres.postmaster import Postmaster
from app.db.postgres.session import fetch_value

__all__ = ["EmbeddedError", "EmbeddedPostgres", "attach", "restart_delay_seconds"]

_POLL_SECONDS: Final = 0.25
_STABLE_SECONDS: Final = 60.0
"""A server that has lived this long was well: the next restart is at once again."""
_LONGEST_DELAY_SECONDS: Final = 30.0

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


class EmbeddedPostgres:
    """A PostgreSQL under `data_dir`, owned by this process from `start` to `stop`; a context manager does both.

    `version` is that of a new database; an existing one keeps its own. Use it from one thread, with or without an
    event loop there. While it is started, SIGTERM and SIGHUP raise SystemExit in the main thread unless the program
    handles them itself, so that leaving the `with` block stops the server. A `stop` that is forgotten happens when the
    main thread ends. A forked child owns nothing, and `stop` there does nothing to the server.
    """

    def __init__(self, data_dir: Path, version: str = "18") -> None:
        self._layout = Layout(data_dir.expanduser().absolute())
        self._version = version
        self._stopping = threading.Event()
        self._supervisor: threading.Thread | None = None
        self._signals = ExitStack()

    def __enter__(self) -> Self:
        """Start it; see `start`."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it; see `stop`."""
        self.stop()

    @property
    def dsn(self) -> str:
        """The URL of the database, for asyncpg and for SQLAlchemy's asyncpg dialect. The same before and after."""
        return self._layout.dsn()

    def start(self) -> str:
        """Return the DSN of a server that takes connections.

        Makes the data directory, the database cluster and the database where they are missing. Waits for as long as
        PostgreSQL is busy with its start, which after a crash may be long; an interrupt stops what has been started.

        Raises EmbeddedError when another process owns the data directory, or there can be no server on it.
        """
        assert self._supervisor is None, "started twice"
        self._stopping.clear()
        with ExitStack() as signals, ExitStack() as server, _told_to_the_operator(self._layout):
            signals.enter_context(_signals_that_unwind())
            self._layout.check()
            server.enter_context(OwnerLock(self._layout))
            cluster = prepare(self._layout, self._version)
            postmaster = Postmaster(cluster)
            server.callback(postmaster.stop)
            postmaster.start(self._stopping)
            ensure_database(self._layout)
            self._supervisor = threading.Thread(
                target=self._supervise, args=(postmaster, server.pop_all()), name="embedded-postgres"
            )
            self._supervisor.start()
            self._signals = signals.pop_all()
        _log.info("postgres_started", version=cluster.programs.version, path=str(self._layout.pgdata))
        return self.dsn

    def stop(self) -> None:
        """Stop the server, wait until it is gone, and let go of the data directory. Idempotent.

        An interrupt ends the waiting, not the stopping, which goes on in a thread that outlives the main one.
        """
        self._stopping.set()
        if self._supervisor:
            self._supervisor.join()
            self._supervisor = None
        self._signals.close()

    def _supervise(self, postmaster: Postmaster, server: ExitStack) -> None:
        """Keep the server running until `stop`, or until the main thread ends; then close `server`, which ends it."""
        with server:
            restarts, up_since = 0, time.monotonic()
            while threading.main_thread().is_alive() and not self._stopping.wait(_POLL_SECONDS):
                code = postmaster.exit_code
                if code is None:
                    continue
                restarts = restarts if time.monotonic() - up_since < _STABLE_SECONDS else 0
                delay_seconds = restart_delay_seconds(restarts)
                restarts += 1
                _log.error("postgres_down", exit_code=code, restart=restarts, delay_seconds=delay_seconds)
                if self._stopping.wait(delay_seconds):
                    break
                try:
                    postmaster.start(self._stopping)
                    _log.info("postgres_restarted")
                except (EmbeddedError, OSError) as error:  # a disk that is full may have room in a minute
                    _log.error("postgres_restart_failed", reason=str(error))
                except Exception:  # noqa: BLE001 - nobody else would start it again, so this loop must survive
                    _log.exception("postgres_restart_failed")
                up_since = time.monotonic()
        _log.info("postgres_stopped")


def attach(data_dir: Path) -> str:
    """Return the DSN of the server that another process owns on `data_dir`; start and stop nothing.

    Raises EmbeddedError when none takes connections there, or this user may not connect to it.
    """
    layout = Layout(data_dir.expanduser().absolute())
    layout.check()
    try:
        fetch_value(layout.dsn(), "SELECT 1")
    except (FileNotFoundError, ConnectionRefusedError):
        raise EmbeddedError(
            f"no Boatload runs on the data directory {layout.data_dir}: start one with `boatload serve`,"
            " or name its own with --data-dir"
        ) from None
    except (asyncpg.CannotConnectNowError, asyncpg.InvalidCatalogNameError, TimeoutError):
        raise EmbeddedError(
            f"the PostgreSQL on the data directory {layout.data_dir} is starting or stopping: try again in a moment"
        ) from None
    except (OSError, asyncpg.PostgresError) as error:
        raise EmbeddedError(
            f"the PostgreSQL on the data directory {layout.data_dir} cannot be used from here ({error}):"
            " run this as the user that Boatload runs as, or as root"
        ) from error
    return layout.dsn()


def restart_delay_seconds(restarts: int) -> float:
    """How long to wait before a restart, after so many others shortly before it: none at first, then more and more."""
    return min(0.5 * 2.0 ** min(restarts - 1, 10), _LONGEST_DELAY_SECONDS) if restarts else 0.0


@contextmanager
def _told_to_the_operator(layout: Layout) -> Generator[None]:
    """Turn what the system or the server refused into EmbeddedError."""
    try:
        yield
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise EmbeddedError(
            f"PostgreSQL cannot run on the data directory {layout.data_dir} ({error.strerror or repr(error)}{where}):"
            " put that right, choose another --data-dir, or set BOATLOAD_DATABASE_URL"
        ) from error
    except asyncpg.PostgresError as error:
        raise EmbeddedError(
            f"the PostgreSQL on the data directory {layout.data_dir} refuses to make its database ({error}):"
            f" see its log in {layout.log_dir}"
        ) from error


@contextmanager
def _signals_that_unwind() -> Generator[None]:
    """Let SIGTERM and SIGHUP raise SystemExit meanwhile: their default action would end us and leave the server.

    Only those that have the default action, and only in the main thread, where Python handles signals.
    """
    ours = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if threading.current_thread() is threading.main_thread() and signal.getsignal(number) is signal.SIG_DFL
    ]
    for number in ours:
        signal.signal(number, _exit)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _exit(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one has nothing to add, and would interrupt the stopping
    sys.exit(128 + number)
