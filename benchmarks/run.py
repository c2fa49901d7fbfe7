"""The service and its peers, side by side: `python benchmarks/run.py [--quick] [--rounds 3] [--only small,polling]`.

Each server is a process of its own with a database of its own on one PostgreSQL 18. In every round each of them gets
the same new content, one after the other. Reading progress is measured apart, in live.py. Prints a Markdown report;
exits 1 when a server answers wrongly or fails.
"""

import argparse
import http.client
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import crowd
import declaring
import processing
import structlog
from client import WrongAnswerError
from contenders import CONTENDERS, Contender
from databases import UnfairDatabaseError, create_database, describe_server
from doors import Pieces
from environment import Environment, describe
from live import LIVE, live_tables
from memory import resident_bytes
from report import Row, render
from servers import Server, ServerFaultError, running
from singles import Singles
from workloads import Measurement, Upload, Workload

from app.db.embedded import EmbeddedError, EmbeddedPostgres

MIB: Final = 1 << 20
SPARE_DISK_BYTES: Final = 2 << 30  # PostgreSQL, its log of changes, and what a server spools
SETTLE_SECONDS: Final = 0.5

FULL: Final[tuple[Workload, ...]] = (
    Upload("small", "1,000 files of 4 KiB in one request", 1000, 4096),
    Upload("big", "one file of 512 MiB", 1, 512 * MIB),
    Pieces("tus", "one file of 512 MiB by tus in pieces of 8 MiB", 512 * MIB, 8 * MIB),
    Singles("put", "2,000 files of 4 KiB, each in a request of its own, over 16 connections", 2000, 4096, 16),
)
QUICK: Final[tuple[Workload, ...]] = (
    Upload("small", "100 files of 4 KiB in one request", 100, 4096),
    Upload("big", "one file of 16 MiB", 1, 16 * MIB),
    Pieces("tus", "one file of 16 MiB by tus in pieces of 1 MiB", 16 * MIB, MIB),
    Singles("put", "100 files of 4 KiB, each in a request of its own, over 16 connections", 100, 4096, 16),
)
WARM_UP: Final[tuple[Workload, ...]] = (
    Upload("many", "warm-up", 20, 4096),
    Upload("one", "warm-up", 1, 2 * MIB),
)


class OutOfTimeError(Exception):
    """The whole run took longer than it was given."""


class NoRoomError(Exception):
    """The disk has less room than the run would fill."""


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    arguments = _arguments()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # the report alone goes to stdout
    rounds = 1 if arguments.quick else arguments.rounds
    workloads = [workload for workload in (QUICK if arguments.quick else FULL) if workload.name in arguments.only]
    contenders = [contender for contender in CONTENDERS if contender.name in arguments.servers]
    try:
        with _time_limit(arguments.minutes * 60), _work_folder(arguments.dir) as folder:
            _require_room(folder, workloads, runs=rounds * len(contenders))
            rows, environment, live = _run(folder, workloads, contenders, rounds, arguments)
    except (
        WrongAnswerError,
        ServerFaultError,
        UnfairDatabaseError,
        EmbeddedError,
        OutOfTimeError,
        NoRoomError,
    ) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print("\n".join([*render(rows, environment), *live]))
    return 0


def _run(
    folder: Path,
    workloads: Sequence[Workload],
    contenders: Sequence[Contender],
    rounds: int,
    arguments: argparse.Namespace,
) -> tuple[list[Row], Environment, list[str]]:
    """Start everything, measure, stop everything."""
    rows: list[Row] = []
    with EmbeddedPostgres(folder / "postgres", "18") as postgres:
        dsn = postgres.dsn
        environment = describe(folder, describe_server(dsn))
        with ExitStack() as stack:
            servers = [
                stack.enter_context(
                    running(contender, folder / contender.name, create_database(dsn, f"bench_{contender.name}"))
                )
                for contender in contenders
                if workloads
            ]
            idle = {server.pid: _warm_up(server) for server in servers}
            for workload in workloads:
                seats = workload.seats(servers)
                rows += [
                    Row(workload, server.contender, idle[server.pid], measurements)
                    for server, measurements in zip(seats, _measure(workload, seats, rounds), strict=True)
                ]
        live = list(live_tables(folder, dsn, arguments.only, rounds=rounds, quick=arguments.quick))
        if declaring.NAME in arguments.only:
            entries = 500 if arguments.quick else 10_000
            live += declaring.tables(folder, create_database(dsn, "bench_manifest"), entries=entries, rounds=rounds)
        if "crowd" in arguments.only:
            database = create_database(dsn, "bench_crowd")
            live += crowd.table(folder / "crowd", database, rounds=rounds, seconds=1.0 if arguments.quick else 4.0)
        if "processing" in arguments.only:
            texts, photos = (200, 16) if arguments.quick else (5000, 200)
            database = create_database(dsn, "bench_processing")
            live += processing.run(folder / "processing", database, texts=texts, photos=photos).render()
    return rows, environment, live


def _warm_up(server: Server) -> int:
    """Let a server import, connect and allocate what it does once; return its resident bytes when idle again."""
    for workload in WARM_UP:
        _checked(server, workload.prepare().run)
    time.sleep(SETTLE_SECONDS)
    return resident_bytes(server.pid)


def _measure(workload: Workload, servers: Sequence[Server], rounds: int) -> list[tuple[Measurement, ...]]:
    """Interleave: in each round every server gets the same content. Return each server's rounds.

    A first round does not count: a server that has run for a while has its plans, connections and memory.
    """
    measured: list[list[Measurement]] = []
    for number in range(rounds + 1):
        job = workload.prepare()
        measured.append([])
        for server in servers:
            measurement = _checked(server, job.run)
            measured[-1].append(measurement)
            progress = f"{workload.name} {number}/{rounds} {server.contender.name}: {measurement.seconds:.3f} s"
            print(progress, file=sys.stderr, flush=True)
    return list(zip(*measured[1:], strict=True))


def _checked(server: Server, run: Callable[[Server], Measurement]) -> Measurement:
    """Run a job; whatever goes wrong names the server and shows its log."""
    try:
        return run(server)
    except WrongAnswerError as error:
        raise WrongAnswerError(f"{server.contender.title}: {error}\n{server.log_tail()}") from error
    except (OSError, ValueError, LookupError, http.client.HTTPException) as error:
        raise ServerFaultError(f"{server.contender.title}: {error!r}\n{server.log_tail()}") from error


def _arguments() -> argparse.Namespace:
    def names(known: list[str]) -> Callable[[str], list[str]]:
        def parse(text: str) -> list[str]:
            chosen = text.split(",")
            if unknown := sorted(set(chosen) - set(known)):
                raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(known)}")
            return chosen

        return parse

    workloads = [*(workload.name for workload in FULL), *LIVE, declaring.NAME, "crowd", "processing"]
    contenders = [contender.name for contender in CONTENDERS]
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", description="The service and its peers, side by side.")
    parser.add_argument("--quick", action="store_true", help="small jobs, one round: does it work at all?")
    parser.add_argument("--rounds", type=int, choices=range(1, 21), default=3, metavar="N", help="default: 3")
    parser.add_argument("--only", type=names(workloads), default=workloads, metavar=",".join(workloads))
    parser.add_argument("--servers", type=names(contenders), default=contenders, metavar=",".join(contenders))
    parser.add_argument(
        "--dir", type=Path, default=Path("/var/tmp"), help="a folder on the disk to measure; %(default)s"
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="the most the run may take; %(default)s")
    return parser.parse_args()


@contextmanager
def _work_folder(parent: Path) -> Iterator[Path]:
    """Make a folder that PostgreSQL's user can pass through; remove it and all in it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="boatload-bench-", dir=parent))
    try:
        folder.chmod(0o755)
        yield folder.resolve()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """End the block by OutOfTimeError when it takes longer, and by SystemExit on SIGTERM, so that all is cleaned up."""

    def out_of_time(_signal: int, _frame: FrameType | None) -> None:
        raise OutOfTimeError(f"not done after {seconds:.0f} s")

    def terminated(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    handlers = {signal.SIGALRM: out_of_time, signal.SIGTERM: terminated}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _require_room(folder: Path, workloads: Sequence[Workload], *, runs: int) -> None:
    needed = runs * sum(workload.disk_bytes for workload in workloads) + SPARE_DISK_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NoRoomError(
            f"{folder} has {free / 1e9:.1f} GB free; the run takes {needed / 1e9:.1f} GB. Name another --dir."
        )


if __name__ == "__main__":
    sys.exit(main())
