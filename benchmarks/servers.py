"""Starts a contender as a process of its own, waits until it is ready, and stops it: only what was started here."""

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from client import HOST, get_status
from contenders import Contender, Seat

READY_SECONDS: Final = 60.0
PREPARE_SECONDS: Final = 120.0
STOP_SECONDS: Final = 20.0
LOG_TAIL_BYTES: Final = 4000


class ServerFaultError(Exception):
    """A server did not start, or died; the message ends with the tail of its log."""


@dataclass(frozen=True, slots=True)
class Server:
    """A contender that runs and is ready."""

    contender: Contender
    seat: Seat
    pid: int
    log: Path

    def log_tail(self) -> str:
        """Return the end of what it wrote."""
        return _tail(self.log)


@contextmanager
def running(contender: Contender, folder: Path, dsn: str) -> Iterator[Server]:
    """Run a contender in `folder` (made here) on `dsn` for the length of the block; then stop it and its children.

    Raises ServerFaultError when a preparation fails, the process ends, or it is not ready in READY_SECONDS.
    """
    folder.mkdir(mode=0o755)
    seat = Seat(_free_port(), dsn, folder)
    log = folder.with_suffix(".log")
    environment = contender.environment(seat)
    with log.open("wb") as sink:
        for command in contender.preparations():
            _prepare(command, environment, log)
        process = subprocess.Popen(
            contender.command(seat),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, contender, seat, log)
        yield Server(contender, seat, process.pid, log)
    finally:
        _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _prepare(command: list[str], environment: dict[str, str], log: Path) -> None:
    with log.open("ab") as sink:
        try:
            subprocess.run(
                command, env=environment, stdout=sink, stderr=subprocess.STDOUT, check=True, timeout=PREPARE_SECONDS
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise ServerFaultError(f"{error}\n{_tail(log)}") from error


def _wait_until_ready(process: subprocess.Popen[bytes], contender: Contender, seat: Seat, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while get_status(seat.port, contender.ready_path, timeout_seconds=5) != 200:
        if process.poll() is not None:
            raise ServerFaultError(f"{contender.title} ended with {process.returncode}\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise ServerFaultError(f"{contender.title} was not ready in {READY_SECONDS:.0f} s\n{_tail(log)}")
        time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    family: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in family:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def _tail(log: Path) -> str:
    return log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
