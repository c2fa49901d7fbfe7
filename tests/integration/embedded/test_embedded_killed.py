"""The embedded PostgreSQL when processes are killed, stopped, or have left marks of another time."""

import asyncio
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from app.db.embedded import EmbeddedPostgres, attach
from tests.support.embedded import (
    AS_ROOT,
    Owners,
    ask,
    ask_patiently,
    both_versions,
    read,
    servers,
    wait_for,
    write,
)


@both_versions
def test_after_kill_9_of_the_owner_the_next_one_takes_over(data_dir: Path, version: str, owner: Owners) -> None:
    process = owner("sleep", data_dir, VERSION=version)
    write(attach(data_dir))
    process.kill()
    process.wait()
    (orphan,) = servers(data_dir)
    with EmbeddedPostgres(data_dir) as postgres:
        assert read(postgres.dsn) == 42
        (server,) = servers(data_dir)
        assert server.pid != orphan.pid
    assert servers(data_dir) == []


def test_kill_9_of_the_owner_at_any_moment_of_its_start(data_dir: Path, owner: Owners) -> None:
    for moment in range(6):
        process = owner("sleep", data_dir, until="STARTING")
        time.sleep(moment * 0.13)
        process.kill()
        process.wait()
    with EmbeddedPostgres(data_dir) as postgres:
        assert ask(postgres.dsn, "SELECT 1") == 1
        assert len(servers(data_dir)) == 1
    with EmbeddedPostgres(data_dir):
        assert {path.name for path in data_dir.iterdir()} == {"postgres", "run", "boatload.lock"}


@both_versions
def test_a_killed_postmaster_comes_back(data_dir: Path, version: str) -> None:
    with EmbeddedPostgres(data_dir, version) as postgres:
        write(postgres.dsn)
        for _ in range(2):
            (server,) = servers(data_dir)
            server.kill()
            wait_for(lambda gone=server: not gone.is_running(), 5)  # type: ignore[misc]
            assert ask_patiently(postgres.dsn, "SELECT answer FROM kept", 10) == 42
            assert len(servers(data_dir)) == 1
    assert servers(data_dir) == []


def test_a_postmaster_that_someone_stops_comes_back(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        (server,) = servers(data_dir)
        server.send_signal(signal.SIGINT)
        wait_for(lambda: not server.is_running(), 10)
        assert ask_patiently(postgres.dsn, "SELECT 1", 10) == 1


def test_restarts_go_on_until_one_succeeds(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        control = data_dir / "postgres" / "global" / "pg_control"
        aside = control.rename(control.with_suffix(".aside"))
        (server,) = servers(data_dir)
        server.kill()
        time.sleep(1.5)
        assert servers(data_dir) == []
        aside.rename(control)
        assert ask_patiently(postgres.dsn, "SELECT 1", 15) == 1


def test_a_statement_that_outlives_its_postmaster_is_ended(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        busy = asyncio.run(leave_busy(postgres.dsn))
        (server,) = servers(data_dir)
        server.kill()
        assert ask_patiently(postgres.dsn, "SELECT 1", 20) == 1
        assert not busy.is_running() or busy.status() == psutil.STATUS_ZOMBIE


async def leave_busy(dsn: str) -> psutil.Process:
    """A backend at work on a statement that looks at nothing else; its client has gone."""
    connection = await asyncpg.connect(dsn)
    busy = psutil.Process(connection.get_server_pid())
    statement = asyncio.ensure_future(connection.execute("SELECT count(*) FROM generate_series(1, 100000000000)"))
    await asyncio.sleep(0.3)
    assert not statement.done()
    connection.terminate()
    with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        await statement
    return busy


@pytest.mark.parametrize("mark", ["live", "empty", "garbage", "free"])
def test_stale_pid_file_does_not_keep_it_from_starting(data_dir: Path, mark: str) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        write(postgres.dsn)
    account = (data_dir / "postgres").stat()
    # A process of the server's own user, for PostgreSQL takes the others' for no reason to worry.
    sleeper = subprocess.Popen(["/bin/sleep", "60"], cwd="/", **as_user(account.st_uid, account.st_gid))
    try:
        pid = {"live": str(sleeper.pid), "empty": "", "garbage": "x", "free": "4194303"}[mark]
        lines = [pid, str(data_dir / "postgres"), "1700000000", "5432", str(data_dir / "run"), "", "1 1", "ready"]
        for path in (data_dir / "postgres" / "postmaster.pid", data_dir / "run" / ".s.PGSQL.5432.lock"):
            path.write_text("\n".join(lines) + "\n" if pid else "")
            os.chown(path, account.st_uid, account.st_gid)
        with EmbeddedPostgres(data_dir) as postgres:
            assert read(postgres.dsn) == 42
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def as_user(uid: int, gid: int) -> dict[str, Any]:
    return {"user": uid, "group": gid, "extra_groups": []} if AS_ROOT else {}


def test_stale_pid_file_that_names_this_very_process(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir):
        pass
    (data_dir / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n{data_dir / 'postgres'}\n")
    with EmbeddedPostgres(data_dir) as postgres:
        assert ask(postgres.dsn, "SELECT 1") == 1


def test_a_postgres_of_another_cluster_is_not_touched(base: Path) -> None:
    with EmbeddedPostgres(base / "mine"):
        pass
    with EmbeddedPostgres(base / "other") as other:
        (server,) = servers(base / "other")
        (base / "mine" / "postgres" / "postmaster.pid").write_text(f"{server.pid}\n{base / 'mine' / 'postgres'}\n")
        with EmbeddedPostgres(base / "mine") as mine:
            assert ask(mine.dsn, "SELECT 1") == 1
        assert server.is_running()
        assert ask(other.dsn, "SELECT 1") == 1


@pytest.mark.parametrize(
    ("mode", "number", "code"),
    [
        ("sleep", signal.SIGTERM, 143),
        ("sleep", signal.SIGHUP, 129),
        ("sleep", signal.SIGINT, -signal.SIGINT),
        ("uvicorn", signal.SIGTERM, 143),
        ("uvicorn", signal.SIGINT, 0),
    ],
)
def test_signals_to_the_owner_stop_postgresql_too(
    data_dir: Path, owner: Owners, mode: str, number: signal.Signals, code: int
) -> None:
    process = owner(mode, data_dir)
    assert len(servers(data_dir)) == 1
    process.send_signal(number)
    assert process.wait(20) == code
    assert servers(data_dir) == []
    assert not (data_dir / "postgres" / "postmaster.pid").exists()


def test_a_second_sigterm_does_not_interrupt_the_stopping(data_dir: Path, owner: Owners) -> None:
    process = owner("sleep", data_dir)
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.005)
    assert process.returncode in {143, -signal.SIGTERM}  # the latter once it has stopped the server
    assert servers(data_dir) == []


def test_an_impatient_ctrl_c_does_not_leave_the_server(data_dir: Path, owner: Owners) -> None:
    process = owner("sleep", data_dir)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    process.wait(20)
    wait_for(lambda: servers(data_dir) == [], 5)


def test_sigterm_at_any_moment_of_the_start_leaves_nothing_running(data_dir: Path, owner: Owners) -> None:
    for moment in range(6):
        process = owner("sleep", data_dir, until="STARTING")
        time.sleep(moment * 0.13)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in {143, -signal.SIGTERM}
        assert servers(data_dir) == []


def test_a_forgotten_stop_happens_at_the_end_of_the_program(data_dir: Path, owner: Owners) -> None:
    assert owner("forget", data_dir).wait(20) == 0
    assert servers(data_dir) == []
