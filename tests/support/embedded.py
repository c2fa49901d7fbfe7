"""Looking at embedded servers from outside, and talking to them."""

import asyncio
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import psutil
import pytest

AS_ROOT = os.geteuid() == 0
root_only = pytest.mark.skipif(not AS_ROOT, reason="only root runs PostgreSQL as another user")
both_versions = pytest.mark.parametrize("version", ["18", "16"])

MEMORY = Path("/dev/shm")
PLACE = MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 1 << 30 else Path("/tmp")
"""A cluster has a thousand files, which a disk takes a second to make; here it is not the disk that is tried."""


class Owners(Protocol):
    """Starts a process that owns a data directory, and returns once it has said `until`; see embedded_owner.py."""

    def __call__(self, mode: str, data_dir: Path, until: str = "READY", **env: str) -> subprocess.Popen[str]: ...


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """The next line of its output that begins with `word`."""
    assert process.stdout is not None
    before = ""
    for line in process.stdout:
        if line.startswith(word):
            return line
        before += line
    pytest.fail(f"the owner said no {word}, but:\n{before}")


def servers(under: Path) -> list[psutil.Process]:
    """Every postmaster whose data directory is below `under`."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            arguments = process.cmdline()
            if (
                process.name() == "postgres"
                and "-D" in arguments
                and str(under) in arguments[arguments.index("-D") + 1]
            ):
                found.append(process)
    return found


def ask(dsn: str, statement: str) -> Any:  # noqa: ANN401 - whatever the statement gives
    async def fetch() -> Any:  # noqa: ANN401
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def ask_patiently(dsn: str, statement: str, within_seconds: float) -> Any:  # noqa: ANN401
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            return ask(dsn, statement)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def wait_for(condition: Callable[[], object], within_seconds: float) -> None:
    deadline = time.monotonic() + within_seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def write(dsn: str) -> None:
    ask(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")


def read(dsn: str) -> object:
    return ask(dsn, "SELECT answer FROM kept")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
