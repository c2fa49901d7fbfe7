"""What an earlier owner of the data directory, killed before it could stop PostgreSQL, may have left behind.

Whoever calls here holds the owner's lock, so whatever still runs on the cluster runs for nobody. No process is
signalled before it is known to be a PostgreSQL of this very cluster.
"""

import signal
import socket
import time
from pathlib import Path
from typing import Final

import psutil
import structlog

from app.db.postgres.cluster import Cluster
from app.db.postgres.layout import EmbeddedError
from app.db.postgres.reports import parse_pid_file

FAST: Final = signal.SIGINT
"""Ends the sessions, writes a checkpoint, exits."""
IMMEDIATE: Final = signal.SIGQUIT
"""Exits without a checkpoint; the next start replays the log. Nothing committed is lost."""

SHUTDOWN: Final = ((FAST, 30.0), (IMMEDIATE, 15.0), (signal.SIGKILL, 15.0))
"""How a server is brought to its end: signals, each with the seconds it is given."""

_POLL_SECONDS: Final = 0.05

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger(__name__)


def clear_the_way(cluster: Cluster) -> None:
    """Stop a postmaster that still runs on the cluster, and remove the marks of one that does not.

    A mark that names a process which lives but is no PostgreSQL of this cluster (process ids come round again) would
    keep PostgreSQL from starting for ever. That backends of a dead postmaster are still at work is another matter,
    which PostgreSQL finds out itself by the shared memory they share; see `end_stragglers`.

    Raises EmbeddedError when the earlier server does not stop, or cannot be told from somebody else's.
    """
    layout = cluster.layout
    try:
        text = layout.pid_file.read_text("utf-8", errors="replace")
    except FileNotFoundError:
        text = None
    marked = parse_pid_file(text) if text is not None else None
    if marked and marked.pid < 0 and _verified(-marked.pid, cluster):
        raise EmbeddedError(
            f"a single-user PostgreSQL, process {-marked.pid}, works on {layout.pgdata}: start again when it is done"
        )
    postmaster = _verified(abs(marked.pid), cluster) if marked else None
    if postmaster:
        _stop(postmaster, cluster)
    elif _answers(cluster):
        raise EmbeddedError(
            f"a server that Boatload cannot identify answers on {layout.socket}: stop it, and start again"
        )
    elif text is not None and not (marked and _is_free(abs(marked.pid))):
        _log.warning("postgres_stale_pid_file_removed", path=str(layout.pid_file), pid=marked and marked.pid)
        layout.pid_file.unlink(missing_ok=True)
    layout.socket.unlink(missing_ok=True)
    layout.socket_lock.unlink(missing_ok=True)


def end_stragglers(cluster: Cluster, signal_number: signal.Signals) -> list[int]:
    """Signal every process of the cluster; only for when its postmaster is dead. Return their process ids."""
    pids: list[int] = []
    for process in psutil.process_iter():
        if _is_of(process, cluster):
            _log.warning("postgres_straggler_signalled", pid=process.pid, signal=signal_number.name)
            _signal(process, signal_number)
            pids.append(process.pid)
    return pids


def _verified(pid: int, cluster: Cluster) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
    except (psutil.Error, ValueError):
        return None
    return process if _is_of(process, cluster) else None


def _is_of(process: psutil.Process, cluster: Cluster) -> bool:
    """Whether it is a living PostgreSQL process of this cluster."""
    try:
        if process.name() != "postgres" or process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.uids().effective != cluster.account.uid:
            return False
        arguments = process.cmdline()
        if " ".join(arguments).startswith(f"postgres: {cluster.name}: "):  # the title of every process but the first
            return True
        if "-D" in arguments[:-1] and _same(arguments[arguments.index("-D") + 1], cluster):
            return True
        # However it was started. Asked last, because a container's root may not look into other users' processes.
        return _same(process.cwd(), cluster)
    except psutil.Error:
        return False


def _same(path: str, cluster: Cluster) -> bool:
    try:
        return Path(path).samefile(cluster.layout.pgdata)
    except OSError:
        return False


def _is_free(pid: int) -> bool:
    """Whether no process has this id: then PostgreSQL itself sees that its mark is stale."""
    return not psutil.pid_exists(pid)


def _answers(cluster: Cluster) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.settimeout(1)
            client.connect(str(cluster.layout.socket))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except (TimeoutError, BlockingIOError):  # it has more callers than it can take
            return True
    return True


def _stop(postmaster: psutil.Process, cluster: Cluster) -> None:
    _log.warning("postgres_orphan_found", pid=postmaster.pid, path=str(cluster.layout.pgdata))
    for signal_number, patience_seconds in SHUTDOWN:
        _signal(postmaster, signal_number)
        deadline = time.monotonic() + patience_seconds
        while time.monotonic() < deadline:
            if not _is_of(postmaster, cluster):
                return
            time.sleep(_POLL_SECONDS)
    raise EmbeddedError(
        f"an earlier PostgreSQL, process {postmaster.pid}, runs on {cluster.layout.pgdata} and does not stop:"
        " end it, and start again"
    )


def _signal(process: psutil.Process, signal_number: signal.Signals) -> None:
    try:
        process.send_signal(signal_number)  # psutil compares start times first: never to a successor of the same id
    except psutil.NoSuchProcess:
        return
