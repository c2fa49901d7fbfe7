"""Our own PostgreSQL server: started as a child, waited for, stopped."""

import re
import signal
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from threading import Event
from typing import IO, Final

import structlog

from app.db.postgres.cluster import Cluster
from app.db.postgres.layout import PORT, EmbeddedError
from app.db.postgres.predecessor import IMMEDIATE, SHUTDOWN, clear_the_way, end_stragglers
from app.db.postgres.reports import last_reason, parse_pid_file

_SETTINGS: Final = {
    # Reached by its socket alone, which is in a directory of mode 0700.
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    # PostgreSQL's own defaults, stated because initdb lowers them where it finds little shared memory. A session costs
    # memory only while it is open; the second is what the hot indexes need, without crowding a laptop.
    "max_connections": "100",
    "shared_buffers": "128MB",
    # A commit that was answered is on the disk, whatever anyone wrote into postgresql.conf.
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    # Our statements are short; compiling one would take longer than running it.
    "jit": "off",
    # The same times in logs and dumps wherever the machine is.
    "timezone": "UTC",
    "log_timezone": "UTC",
    # One file for each day of the week, overwritten a week later. Nobody reads our child's output once it is up.
    "logging_collector": "on",
    "log_directory": "log",
    "log_error_verbosity": "terse",  # without the rows that were refused: there may be secrets in them
    "log_filename": "postgresql-%a.log",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
}

_POLL_SECONDS: Final = 0.02
_REMIND_SECONDS: Final = 10.0
_STRAGGLERS_QUIT_SECONDS: Final = 2.0
_STRAGGLERS_KILL_SECONDS: Final = 10.0
_STRAGGLERS_GIVE_UP_SECONDS: Final = 30.0

_REFUSED_FOR_PREDECESSOR: Final = re.compile(r'pre-existing shared memory block|lock file ".*" already exists')

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


@contextmanager
def _interrupts_held_back() -> Generator[None]:
    """Let what unwinds this thread come behind the block: in it a server is started, and must not be lost sight of.

    The server begins with these signals blocked as well, and sets its own mask first of all.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Postmaster:
    """The server on one cluster, at most one process at a time. The caller holds the owner's lock, and calls `stop`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._child: Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._logged_bytes: dict[Path, int] = {}

    @property
    def exit_code(self) -> int | None:
        """How the last server ended, negative for a signal; None while it runs."""
        return self._child.poll() if self._child else None

    def start(self, cancelled: Event) -> None:
        """Start the server; return when it takes connections, or soon after `cancelled` is set.

        Waits for as long as the server lives: replaying the log after a crash takes what it takes. First stops a server
        that an earlier owner left, and sees its last processes off.

        Raises EmbeddedError with PostgreSQL's own reason when it gives up, OSError when it cannot be started.
        """
        first_refused: float | None = None
        while not cancelled.is_set():
            clear_the_way(self._cluster)
            self._spawn()
            if self._wait(cancelled):
                return
            reason = self._reason()
            if not _REFUSED_FOR_PREDECESSOR.search(reason):
                raise EmbeddedError(
                    f"PostgreSQL does not start on {self._cluster.layout.pgdata} ({reason}):"
                    f" see its log in {self._cluster.layout.log_dir}"
                )
            first_refused = first_refused or time.monotonic()
            self._see_off_stragglers(time.monotonic() - first_refused)
            cancelled.wait(0.2)

    def stop(self) -> None:
        """Stop the server: sessions are ended and a checkpoint written, unless that takes too long. Idempotent."""
        if self._child:
            for signal_number, patience_seconds in SHUTDOWN:
                self._child.send_signal(signal_number)  # does nothing once the child is known to have ended
                try:
                    self._child.wait(patience_seconds)
                    break
                except TimeoutExpired:
                    _log.warning("postgres_slow_to_stop", pid=self._child.pid, signal=signal_number.name)
        if self._output:
            self._output.close()

    def _spawn(self) -> None:
        layout = self._cluster.layout
        settings = _SETTINGS | {"unix_socket_directories": str(layout.run_dir), "cluster_name": self._cluster.name}
        options: list[str | Path] = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        if self._output:
            self._output.close()
        # A file without a name holds what is said before the log is open: no pipe that fills, nothing to clean up.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        self._logged_bytes = {path: path.stat().st_size for path in layout.log_dir.glob("*.log")}
        command: list[str | Path] = [self._cluster.programs.postgres, "-D", layout.pgdata, *options]
        with _interrupts_held_back():
            self._child = self._cluster.account.spawn(command, self._output)

    def _wait(self, cancelled: Event) -> bool:
        """Wait for the child; False when it has ended first.

        What it writes into its pid file is asked, as pg_ctl does: a connection refused would leave a line in its log.
        """
        assert self._child is not None
        began = reminded = time.monotonic()
        while self._child.poll() is None:
            if self._status() == "ready" or cancelled.wait(_POLL_SECONDS):
                return True
            if time.monotonic() - reminded >= _REMIND_SECONDS:
                reminded = time.monotonic()
                _log.info("postgres_still_starting", pid=self._child.pid, waited_seconds=round(reminded - began))
        return False

    def _status(self) -> str | None:
        assert self._child is not None
        try:
            marked = parse_pid_file(self._cluster.layout.pid_file.read_text("utf-8", errors="replace"))
        except FileNotFoundError:
            return None
        return marked.status if marked and marked.pid == self._child.pid else None

    def _reason(self) -> str:
        """Why the child ended: from its output, or from the log if it had come so far as to open one."""
        assert self._child is not None
        assert self._output is not None
        self._output.seek(0)
        output = self._output.read().decode(errors="replace")
        return (
            last_reason(output)
            or last_reason(self._logged_since_start())
            or (output.splitlines() or [f"exit code {self._child.returncode}"])[-1]
        )

    def _logged_since_start(self) -> str:
        text = ""
        for path in self._cluster.layout.log_dir.glob("*.log"):
            with path.open("rb") as log:
                before = self._logged_bytes.get(path, 0)
                log.seek(before if before <= path.stat().st_size else 0)  # smaller: overwritten after a week
                text += log.read().decode(errors="replace")
        return text

    def _see_off_stragglers(self, waited_seconds: float) -> None:
        """End processes that outlive their postmaster, as they do while a statement runs on: they work for nobody."""
        if waited_seconds < _STRAGGLERS_QUIT_SECONDS:
            return
        pids = end_stragglers(self._cluster, signal.SIGKILL if waited_seconds > _STRAGGLERS_KILL_SECONDS else IMMEDIATE)
        if waited_seconds > _STRAGGLERS_GIVE_UP_SECONDS:
            raise EmbeddedError(
                f"processes of an earlier PostgreSQL ({pids or 'unknown'}) still use {self._cluster.layout.pgdata}:"
                " end them, and start again"
            )
